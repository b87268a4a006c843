"""Tiny finished models of each task, as training leaves them, and what they answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from convneur.data.semantic import MaskEncoding
from convneur.models import load_model, save_model
from convneur.tasks.detection import create_detector, load_detector, save_detector
from convneur.tasks.segmentation import create_segmenter, load_segmenter, save_segmenter
from convneur_options.segmentation import Inference
from tests.models.builders import create

TINY: dict[str, Any] = {"dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "memory_width": 16}
LABELS = ["cat", "dog", "owl"]
TASKS = ("classifier", "detector", "segmenter")
DETECTOR = {
    "kind": "faster_rcnn", "backbone": "convneur_m1", "num_classes": 3, "min_size": 64, "max_size": 96,
    "smallest_anchor": 16, "out_channels": 16, "rpn_post_nms_top_n_test": 50, "backbone_args": TINY,
}  # fmt: skip
SEGMENTER = {
    "decoder": "semantic_fpn", "backbone": "convneur_m1", "num_classes": 3, "pyramid_channels": 32, "channels": 32,
    "backbone_args": TINY,
}  # fmt: skip
LOADERS: dict[str, Callable[[Path], Any]] = {
    "classifier": load_model,
    "detector": load_detector,
    "segmenter": load_segmenter,
}
# Where config.json has the arguments that a model is made with, and those of its backbone
ARGUMENTS = {"classifier": ("model_args",), "detector": ("detector",), "segmenter": ("segmenter",)}
BACKBONE = {
    "classifier": ("model_args",),
    "detector": ("detector", "backbone_args"),
    "segmenter": ("segmenter", "backbone_args"),
}


def save(task: str, folder: Path) -> Path:
    """Write a model of a task."""
    torch.manual_seed(0)
    if task == "classifier":
        given = TINY | {"num_classes": 3}
        save_model(create("convneur_m1", **given), folder, given, LABELS)
    elif task == "detector":
        save_detector(create_detector(**DETECTOR), folder, DETECTOR, LABELS, [1, 2, 3], "card")
    else:
        code = MaskEncoding(LABELS, np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8))
        save_segmenter(create_segmenter(**SEGMENTER), folder, SEGMENTER, code, Inference(), "card")
    return folder


@torch.inference_mode()
def answer(task: str, loaded: Any) -> Tensor:
    """Of a loaded model to one image; of a detector what its backbone says."""
    image = torch.linspace(0, 1, 3 * 64 * 64).sin().reshape(1, 3, 64, 64)
    if task == "detector":
        return torch.cat([each.flatten() for each in loaded.model.backbone(image).values()])
    return loaded.model(image)


def change(folder: Path, place: tuple[str, ...], value: Any) -> None:
    """Set a value in config.json."""
    config = json.loads((folder / "config.json").read_text())
    inside = config
    for name in place[:-1]:
        inside = inside[name]
    inside[place[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))


def change_weights(folder: Path, edit: Callable[[dict[str, Tensor]], Any]) -> None:
    """Change the tensors of a model."""
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors")
