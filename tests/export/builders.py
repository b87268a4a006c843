"""Models to export."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from convneur.data.photos import SAMPLES, sample_image
from convneur.data.transforms import Preprocessing
from convneur.export import FORMATS, ExportMetadata, Runtime, agreement, export_model, load_exported
from convneur.export.check import photo_batches
from convneur.models import ConvNeur, Loaded, save_model
from tests.models.builders import create

LABELS = ['a "quoted" one', "<&> 'two'", "čtyři", "", "five\nlines\\"]
ARGS = {"dims": (8, 16), "depths": (1, 1), "memory_width": 16, "num_classes": len(LABELS)}
EXPECTS = {"input_size": (3, 32, 32), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3), "crop_pct": 0.9}
ONE_STAGE = {"dims": (8,), "depths": (1,)}
# Formats, and a .pt2 that calls our operations by name.
KINDS = ["onnx", "torch", "keep-ops", "openvino", "aoti"]
QUICK = KINDS[:-2]  # the others take long: OpenVINO goes by way of ONNX, and compiling is slow
SIZES = [(32, 32), (47, 63), (100, 52)]  # maps whose sides the pooling windows fit, stand over, and both


class Exported(NamedTuple):
    model: ConvNeur
    file: Path
    loaded: Loaded

    @property
    def runtime(self) -> Runtime:
        """The loaded file as a module."""
        return self.loaded.model


def small(seed: int = 0, **changes) -> ConvNeur:
    """A model of two stages, none of whose weights is what a new one has."""
    torch.manual_seed(seed)
    model = create("convneur_m1", **ARGS | changes, pretrained_cfg_overlay=EXPECTS).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def metadata_of(model: ConvNeur) -> ExportMetadata:
    return ExportMetadata(dict(model.pretrained_cfg), LABELS)


def photos(model: ConvNeur, sizes: list[tuple[int, int]]) -> list[torch.Tensor]:
    """Batches of 1 and of 4 photographs at each size."""
    pictures = [sample_image(name) for name in SAMPLES]
    return list(photo_batches(pictures, Preprocessing.of(dict(model.pretrained_cfg)), sizes))


def exported(folder: Path, kind: str, model: ConvNeur, dynamic: bool = True) -> Exported:
    """A model as a file of one of `KINDS`, and loaded again; skips the test where a package is missing."""
    format = FORMATS["torch" if kind == "keep-ops" else kind]
    try:
        format.require()
    except ImportError as error:
        pytest.skip(str(error))
    path = folder / f"model{format.suffix}"
    files = export_model(model, path, metadata_of(model), dynamic, keep_ops=kind == "keep-ops")
    return Exported(model, files[-1], load_exported(str(files[-1]), trust=True))


def worst(found: Exported, sizes: list[tuple[int, int]]) -> float:
    """The largest difference from the model, of batches of 1 and 4 photographs."""
    differences = [agreement(found.model, found.runtime, batch).difference for batch in photos(found.model, sizes)]
    assert not any(map(math.isnan, differences))
    return max(differences)


def saved(folder: Path, labels: list[str]) -> Path:
    """A folder as ``convneur train`` leaves it."""
    save_model(small(), folder, ARGS, labels)
    return folder
