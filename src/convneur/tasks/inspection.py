"""What of a run or model ``convneur explain`` looks into, and how an image gets there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import timm
import torch
from PIL import Image
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn
from torchvision.transforms.functional import to_tensor

from convneur.data.semantic.loading import MEAN, STD, normalised
from convneur.data.transforms import Preprocessing, eval_transform
from convneur.explain.inspected_model import InspectedModel
from convneur.explain.looking import gated_branches
from convneur.export.untrained import untrained
from convneur.models import VARIANTS, ConvNeur, load_model
from convneur.tasks.backbone_utils import body_of
from convneur.tasks.detection.predictor import Detector
from convneur.tasks.detection.saved import detector_folder
from convneur.tasks.segmentation.inference import fitted
from convneur.tasks.segmentation.predictor import SegmentationPredictor
from convneur.tasks.segmentation.saved import segmenter_folder

Made = TypeVar("Made", bound=nn.Module)


def open_inspected(model: str, image_size: int | None) -> InspectedModel[ConvNeur]:
    """Load what can be looked into.

    Args:
        model: Folder of a run or model of any task, hf-hub:USER/NAME, or the name of a variant.
        image_size: As for ``convneur predict``; what the model was made for if None.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If it cannot be loaded, or has no memory with gates.
    """
    if timm.is_model(model) and model not in VARIANTS and not Path(model).exists():
        raise ValueError(f"{model} has no memory; give a run, or one of {', '.join(VARIANTS)}")
    return _open(model, image_size, _with_gates)


def open_any(model: str) -> InspectedModel[nn.Module]:
    """Load a model whether it has a memory or not: as for `open_inspected`, or a timm name with pretrained weights.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If it cannot be loaded.
    """
    return _open(model, None, lambda body, _: body)


def _open(model: str, image_size: int | None, checked: Callable[[nn.Module, str], Made]) -> InspectedModel[Made]:
    if detector_folder(model) is not None:
        return _of_detector(Detector.load(model), image_size, checked)
    if segmenter_folder(model) is not None:
        return _of_segmenter(SegmentationPredictor.load(model), image_size, checked)
    return _of_classifier(model, image_size, checked)


def _of_classifier(
    model: str, image_size: int | None, checked: Callable[[nn.Module, str], Made]
) -> InspectedModel[Made]:
    new = model in VARIANTS and not Path(model).exists()
    loaded, config, labels = untrained(model) if new else load_model(model)
    to = Preprocessing.of(config, image_size)
    transform = eval_transform(to)
    classes = labels or [str(number) for number in range(config["num_classes"])]
    notes = ["The middle of the picture, as it is cut out for the classifier."]
    if new:
        notes.append("The weights are random: the maps show what can be seen, and mean nothing.")
    return InspectedModel(
        config.get("architecture", model),
        checked(loaded, model),
        lambda picture: transform(picture)[None],
        to.mean,
        to.std,
        notes,
        () if new else classes,
        not new,
    )


def _of_detector(
    saved: Detector, image_size: int | None, checked: Callable[[nn.Module, str], Made]
) -> InspectedModel[Made]:
    transform: Any = saved.at_size(image_size).get_submodule("transform")

    def prepare(picture: Image.Image) -> Tensor:
        images, _ = transform([to_tensor(picture)])
        prepared: Tensor = images.tensors
        return prepared

    notes = ["The backbone of a detector, which pads images below and to the right to multiples of 32 px."]
    body = checked(_unwrapped(body_of(saved.model)), str(saved.source))
    return InspectedModel(saved.name, body, prepare, transform.image_mean, transform.image_std, notes)


def _of_segmenter(
    saved: SegmentationPredictor, image_size: int | None, checked: Callable[[nn.Module, str], Made]
) -> InspectedModel[Made]:
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
    body = checked(_unwrapped(saved.model.body), str(saved.source))
    return InspectedModel(saved.name, body, prepare, MEAN, STD, notes)


def _unwrapped(body: nn.Module) -> nn.Module:
    """The ConvNeur that a body wraps, or the body as it is."""
    inner: Any = body.model if isinstance(body, FeatureGetterNet) else body
    return inner if isinstance(inner, ConvNeur) else body


def _with_gates(backbone: nn.Module, name: str) -> ConvNeur:
    if not isinstance(backbone, ConvNeur):
        raise ValueError(f"{name} has no memory; give a model whose backbone is one of {', '.join(VARIANTS)}")
    try:
        gated_branches(backbone)
    except ValueError as error:
        raise ValueError(f"{name} cannot be explained: {error}") from error
    return backbone
