"""What of a run or model ``convneur explain`` looks into, and how an image gets there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn
from torchvision.transforms.functional import to_tensor

from convneur.cli.detecting import full_name as name_of_detector
from convneur.cli.detecting import open_detector
from convneur.cli.segmenting import full_name as name_of_segmenter
from convneur.data.semantic.loading import MEAN, STD, normalised
from convneur.data.transforms import Preprocessing, eval_transform
from convneur.explain.looking import gated_branches
from convneur.export import untrained
from convneur.models import VARIANTS, ConvNeur, load_model
from convneur.tasks.detection.saved import detector_folder
from convneur.tasks.segmentation.inference import fitted
from convneur.tasks.segmentation.saved import load_segmenter, segmenter_folder


@dataclass(frozen=True)
class Subject:
    """A backbone with memories, and what stands around it.

    Attributes:
        name: What to call the whole.
        backbone: In eval mode.
        prepare: A picture as the backbone takes it, (1, C, H, W).
        mean: Per channel, that was taken off.
        std: Per channel, that was divided by.
        notes: What a reader must know about its maps.
        classes: Of a trained classifier; none of others.
        trained: Whether it was.
    """

    name: str
    backbone: ConvNeur
    prepare: Callable[[Image.Image], Tensor]
    mean: Sequence[float]
    std: Sequence[float]
    notes: Sequence[str]
    classes: Sequence[str] = ()
    trained: bool = True

    def picture(self, image: Tensor) -> Tensor:
        """A prepared image as people see it, (3, H, W) in [0, 1]."""
        mean, std = (torch.tensor(each)[:, None, None] for each in (self.mean, self.std))
        return (image[0].cpu() * std + mean).clamp(0, 1).expand(3, -1, -1)


def open_subject(model: str, image_size: int | None) -> Subject:
    """Load what can be looked into.

    Args:
        model: Folder of a run or model of any task, hf-hub:USER/NAME, or the name of a variant.
        image_size: As for ``convneur predict``; what the model was made for if None.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If it cannot be loaded, or has no memory with gates.
    """
    if detector_folder(model) is not None:
        return _of_detector(model, image_size)
    if segmenter_folder(model) is not None:
        return _of_segmenter(model, image_size)
    return _of_classifier(model, image_size)


def _of_classifier(model: str, image_size: int | None) -> Subject:
    new = model in VARIANTS and not Path(model).exists()
    if timm.is_model(model) and not new and not Path(model).exists():
        raise ValueError(f"{model} has no memory; give a run, or one of {', '.join(VARIANTS)}")
    loaded, config, labels = untrained(model) if new else load_model(model)
    to = Preprocessing.of(config, image_size)
    transform = eval_transform(to)
    classes = labels or [str(number) for number in range(config["num_classes"])]
    notes = ["The middle of the picture, as it is cut out for the classifier."]
    if new:
        notes.append("The weights are random: the maps show what can be seen, and mean nothing.")
    return Subject(
        config.get("architecture", model),
        _with_gates(loaded, model),
        lambda picture: transform(picture)[None],
        to.mean,
        to.std,
        notes,
        () if new else classes,
        not new,
    )


def _of_detector(model: str, image_size: int | None) -> Subject:
    saved = open_detector(model, image_size)
    transform: Any = saved.model.transform

    def prepare(picture: Image.Image) -> Tensor:
        images, _ = transform([to_tensor(picture)])
        prepared: Tensor = images.tensors
        return prepared

    notes = ["The backbone of a detector, which pads images below and to the right to multiples of 32 px."]
    name = name_of_detector(saved.kind, saved.arguments["backbone"])
    body = saved.model.get_submodule("backbone.body")
    return Subject(name, _with_gates(body, model), prepare, transform.image_mean, transform.image_std, notes)


def _of_segmenter(model: str, image_size: int | None) -> Subject:
    saved = load_segmenter(model)
    how = saved.inference if image_size is None else replace(saved.inference, size=image_size)

    def prepare(picture: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        whole = fitted(normalised(pixels), how.size / min(picture.size) if how.size else 1.0)
        top, left = (max(0, side - how.window) // 2 if how.window else 0 for side in whole.shape[2:])
        height, width = (how.window or side for side in whole.shape[2:])
        return saved.model.padded(whole[..., top : top + height, left : left + width])

    notes = ["The backbone of a segmentation model, which pads images below and to the right to multiples of 32 px."]
    if how.window:
        notes.append(f"The model looks at tiles of {how.window} px, each by itself; this is the middle of the picture.")
    name = name_of_segmenter(saved.arguments["decoder"], saved.arguments["backbone"])
    return Subject(name, _with_gates(saved.model.body, model), prepare, MEAN, STD, notes)


def _with_gates(body: nn.Module, name: str) -> ConvNeur:
    """The ConvNeur that a body is, or wraps."""
    backbone: Any = body.model if isinstance(body, FeatureGetterNet) else body
    if not isinstance(backbone, ConvNeur):
        raise ValueError(f"{name} has no memory; give a model whose backbone is one of {', '.join(VARIANTS)}")
    try:
        gated_branches(backbone)
    except ValueError as error:
        raise ValueError(f"{name} cannot be explained: {error}") from error
    return backbone
