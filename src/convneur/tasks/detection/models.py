"""torchvision's detectors, and Cascade R-CNN, on any timm backbone."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from math import log2
from typing import Any, Literal, get_args

from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7
from torchvision.ops.poolers import initLevelMapper

from convneur.models.metadata import (
    MAX_CLASSES,
    MAX_SIDE,
    check_types,
    deviation,
    number,
    one_of,
    pixels,
    several,
    whole,
)
from convneur.tasks.backbone_utils import freeze_stages
from convneur.tasks.detection.cascade import IOUS, CascadeRoIHeads, cascade_stage
from convneur.tasks.detection.mask_paste import PastingTransform
from convneur.tasks.pyramid import STRIDES, FeaturePyramid

DetectorKind = Literal["faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn", "retinanet", "fcos"]
WITH_MASKS = ("mask_rcnn", "cascade_mask_rcnn")
ONE_STAGE = ("retinanet", "fcos")
CLASSES = {"mask_rcnn": MaskRCNN, "retinanet": RetinaNet, "fcos": FCOS}  # of torchvision, the others FasterRCNN
MAX_BOXES = 10_000  # of an image, of whatever kind
LEVELS = [str(level) for level in range(len(STRIDES))]


def create_detector(
    kind: DetectorKind,
    backbone: str | nn.Module = "convneur_m1",
    num_classes: int = 80,
    *,
    min_size: int = 800,
    max_size: int = 1333,
    smallest_anchor: int = 32,
    frozen_stages: int = 0,
    out_channels: int = 256,
    mask_channels: int = 256,
    backbone_args: dict[str, Any] | None = None,
    **arguments: Any,
) -> nn.Module:
    """A detector with torchvision's contract: images and targets -> losses in training, images -> detections else.

    Images are a list of (3, H, W) in 0 to 1, of any sizes; they are normalised and resized inside. Targets are dicts of
    ``boxes`` (n, 4), corners in pixels, ``labels`` (n,) from 1 on, and ``masks`` (n, H, W) for detectors with masks.

    Args:
        kind: ``cascade_rcnn`` and ``cascade_mask_rcnn`` have three stages (Cai and Vasconcelos), the others are
            torchvision's.
        backbone: As for `FeaturePyramid`.
        num_classes: Without the background.
        min_size: Pixels that the shorter side of an image is resized to.
        max_size: Pixels that the longer side may have.
        smallest_anchor: Pixels a side of the anchors on the finest level; they double from level to level. FCOS has
            none.
        frozen_stages: As for `freeze_stages`.
        out_channels: Of the pyramid.
        mask_channels: Of the mask heads, most of the work of a small detector with masks.
        backbone_args: Of the timm model, where the backbone is given by name.
        **arguments: Of torchvision's class, such as ``box_detections_per_img``.

    Raises:
        ValueError: For an unknown kind, or a backbone without maps of the strides that are needed.
    """
    if kind not in get_args(DetectorKind):
        raise ValueError(f"kind={kind!r} is not known; use one of {', '.join(get_args(DetectorKind))}")
    one_stage = kind in ONE_STAGE
    pyramid = FeaturePyramid(
        backbone,
        STRIDES[1:] if one_stage else STRIDES,
        out_channels,
        LastLevelP6P7(out_channels, out_channels) if one_stage else LastLevelMaxPool(),
        **(backbone_args or {}),
    )
    freeze_stages(pyramid.body, frozen_stages)
    given: dict[str, Any] = {"min_size": min_size, "max_size": max_size} | arguments
    detector: Any = _with_heads(kind, pyramid, num_classes, smallest_anchor, mask_channels, given)
    detector.transform = PastingTransform(detector.transform)
    for module in detector.modules():
        if isinstance(module, MultiScaleRoIAlign):
            # torchvision takes them from the first image that it sees, and is wrong for all others where that is thin.
            module.scales = [1 / stride for stride in STRIDES]
            module.map_levels = initLevelMapper(int(log2(STRIDES[0])), int(log2(STRIDES[-1])))
    return detector


def _with_heads(
    kind: DetectorKind,
    pyramid: FeaturePyramid,
    num_classes: int,
    smallest_anchor: int,
    mask_channels: int,
    given: dict[str, Any],
) -> nn.Module:
    """A detector on a pyramid, with torchvision's transform."""
    out_channels = pyramid.out_channels
    if kind == "fcos":
        return FCOS(pyramid, num_classes + 1, **given)
    sizes = [smallest_anchor * 2**level for level in range(5)]
    if kind == "retinanet":
        # Three sizes to an octave (RetinaNet, section 4)
        octaves = tuple(tuple(round(size * 2 ** (third / 3)) for third in range(3)) for size in sizes)
        return RetinaNet(pyramid, num_classes + 1, anchor_generator=_anchors(octaves), **given)
    given["rpn_anchor_generator"] = _anchors(tuple((size,) for size in sizes))
    if "cascade" in kind:
        return _cascade(pyramid, num_classes + 1, kind in WITH_MASKS, mask_channels, given)
    given = {"box_head": TwoMLPHead(out_channels * 49, 1024)} | given
    if kind == "faster_rcnn":
        return FasterRCNN(pyramid, num_classes + 1, **given)
    parts = _mask_parts(out_channels, mask_channels, num_classes + 1)
    # torchvision takes no mask predictor beside a number of classes
    detector = MaskRCNN(pyramid, num_classes + 1, **({"mask_head": parts["mask_head"]} | given))
    detector.roi_heads.mask_predictor = parts["mask_predictor"]
    return detector


def check_arguments(arguments: Mapping[str, Any], place: str) -> None:
    """Refuse arguments of `create_detector` that are unknown, or of which no detector can be made that is of use.

    Args:
        arguments: As JSON has them.
        place: For messages.

    Raises:
        ValueError: For the first of them.
    """
    one_of(arguments.get("kind"), f"{place}.kind", get_args(DetectorKind))
    theirs = inspect.signature(CLASSES.get(arguments["kind"], FasterRCNN).__init__).parameters
    for name, value in arguments.items():
        at = f"{place}.{name}"
        default = theirs[name].default if name in theirs else None
        if name in ("min_size", "max_size", "smallest_anchor"):
            whole(value, at, 1, MAX_SIDE)
        elif name == "num_classes":
            whole(value, at, 1, MAX_CLASSES)
        elif name in ("image_mean", "image_std"):
            several(value, at, (3,), pixels if name == "image_mean" else deviation)
        elif isinstance(default, int):
            whole(value, at, 0, MAX_BOXES)
        elif isinstance(default, float):
            number(value, at, 0, 100)
        else:
            check_types({name: value}, create_detector, place)


def _anchors(sizes: tuple[tuple[int, ...], ...]) -> AnchorGenerator:
    return AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))


def _mask_parts(in_channels: int, channels: int, num_classes: int) -> dict[str, nn.Module]:
    """torchvision's mask head, four convolutions, and its predictor."""
    return {
        "mask_head": MaskRCNNHeads(in_channels, (channels,) * 4, 1),
        "mask_predictor": MaskRCNNPredictor(channels, channels, num_classes),
    }


def _cascade(
    pyramid: FeaturePyramid, num_classes: int, with_masks: bool, mask_channels: int, arguments: dict[str, Any]
) -> nn.Module:
    """torchvision's Faster R-CNN with other heads."""
    names = {"score_thresh": 0.05, "nms_thresh": 0.5, "detections_per_img": 100}
    names |= {"batch_size_per_image": 512, "positive_fraction": 0.25}
    settings = {name: arguments.pop(f"box_{name}", default) for name, default in names.items()}
    detector = FasterRCNN(pyramid, box_head=nn.Identity(), box_predictor=nn.Identity(), **arguments)
    width = pyramid.out_channels
    pool = MultiScaleRoIAlign(LEVELS, output_size=7, sampling_ratio=2)
    mask_pool = {"mask_roi_pool": MultiScaleRoIAlign(LEVELS, output_size=14, sampling_ratio=2)}
    detector.roi_heads = CascadeRoIHeads(
        [
            cascade_stage(
                number,
                num_classes,
                box_roi_pool=pool,
                box_head=TwoMLPHead(width * 49, 1024),
                **settings,
                **(mask_pool | _mask_parts(width, mask_channels, num_classes) if with_masks else {}),
            )
            for number in range(len(IOUS))
        ]
    )
    return detector
