"""Recipes for detection and instance segmentation; importing them costs nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from convneur_options.backbone import BackboneConfig
from convneur_options.fit import FitConfig
from convneur_options.optim import OptimConfig
from convneur_options.run import RunConfig

DetectorKind = Literal["faster_rcnn", "cascade_rcnn", "retinanet", "fcos", "mask_rcnn", "cascade_mask_rcnn"]
# Without masks, with masks; the first is the default.
KINDS: dict[str, tuple[DetectorKind, ...]] = {
    "detection": ("faster_rcnn", "cascade_rcnn", "retinanet", "fcos"),
    "instance": ("mask_rcnn", "cascade_mask_rcnn"),
}


@dataclass(frozen=True)
class DetectionConfig(RunConfig):
    """One training run of a detector.

    Attributes:
        detector: faster_rcnn, cascade_rcnn, retinanet or fcos for boxes; mask_rcnn or cascade_mask_rcnn for masks.
    """

    detector: DetectorKind = "faster_rcnn"


@dataclass(frozen=True)
class InstanceConfig(DetectionConfig):
    """One training run of a detector with masks."""

    detector: DetectorKind = "mask_rcnn"


@dataclass(frozen=True)
class HeadConfig:
    """What stands on the backbone.

    Attributes:
        out_channels: Of the feature pyramid.
        mask_channels: Of the mask heads.
        smallest_anchor: Pixels a side, on the resized image, of the smallest anchors; smaller objects are hard to find.
        frozen_stages: Of the backbone, that learn nothing; the stem counts as the first.
        boxes_per_image: Proposals of an image that the box heads learn from.
        proposals: Boxes that the proposal network keeps in training; half as many in inference.
        detections: Most of an image.
    """

    out_channels: int = 256
    mask_channels: int = 256
    smallest_anchor: int = 32
    frozen_stages: int = 0
    boxes_per_image: int = 512
    proposals: int = 2000
    detections: int = 100

    def arguments(self, kind: str) -> dict[str, Any]:
        """Those of `convneur.tasks.detection.create_detector`, as JSON can hold them."""
        common: dict[str, Any] = {
            "out_channels": self.out_channels,
            "mask_channels": self.mask_channels,
            "smallest_anchor": self.smallest_anchor,
            "frozen_stages": self.frozen_stages,
        }
        if kind in ("retinanet", "fcos"):
            return common | {"detections_per_img": self.detections}
        return common | {
            "box_batch_size_per_image": self.boxes_per_image,
            "box_detections_per_img": self.detections,
            "rpn_pre_nms_top_n_train": self.proposals,
            "rpn_post_nms_top_n_train": self.proposals,
            "rpn_pre_nms_top_n_test": self.proposals // 2,
            "rpn_post_nms_top_n_test": self.proposals // 2,
        }


@dataclass(frozen=True)
class ObjectAugmentConfig:
    """How training images and what is on them are varied.

    Attributes:
        hflip: Probability of left for right.
        vflip: Probability of top for bottom; for images without an up, such as a microscope's.
        jitter: Least and largest scale, over that at which images are evaluated; scaled images are cropped and padded
            to squares of ``min_size``. None for whole images at one scale.
        color_jitter: Strength of changes to brightness, contrast and saturation.
    """

    hflip: float = 0.5
    vflip: float = 0.0
    jitter: tuple[float, float] | None = None
    color_jitter: float = 0.0


@dataclass(frozen=True)
class DetectionRecipe:
    """How a detector is trained.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per batch of one process; all that there are, if they are fewer.
        min_size: Pixels that the shorter side of an image is resized to.
        max_size: Pixels that the longer side may have.
        ema: Decay of the average of the weights that is kept; 0 for none.
        backbone: The backbone, where it is a ConvNeur.
        heads: What stands on it.
        optim: Optimizer and schedule.
        augment: How training images are varied.
        fit: Where to train, and in which precision.
    """

    epochs: int = 12
    batch_size: int = 2
    min_size: int = 800
    max_size: int = 1333
    ema: float = 0.0
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    heads: HeadConfig = field(default_factory=HeadConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    augment: ObjectAugmentConfig = field(default_factory=ObjectAugmentConfig)
    fit: FitConfig = field(default_factory=FitConfig)


DETECTION_RECIPES: dict[str, DetectionRecipe] = {
    # COCO's 1x: 12 epochs, a tenth of the rate after 8 and 11; AdamW with 1e-4 for 16 images, as is usual for backbones
    # of this kind since Swin. It is meant to begin from weights of ImageNet.
    "coco-1x": DetectionRecipe(
        backbone=BackboneConfig(drop_path_rate=0.1),
        optim=OptimConfig(lr=1e-4, lr_batch=16, warmup=500 / 88_000, drops=(8 / 12, 11 / 12)),
        fit=FitConfig(precision="bf16"),
    ),
    # From a trained backbone or detector, on a few hundred to some ten thousand images of one's own.
    "finetune": DetectionRecipe(
        epochs=30,
        batch_size=4,
        min_size=640,
        max_size=1024,
        ema=0.999,
        backbone=BackboneConfig(drop_path_rate=0.05),
        heads=HeadConfig(smallest_anchor=16, detections=200),
        optim=OptimConfig(lr=2e-4, lr_batch=16, layer_decay=0.8, clip_grad=5.0),
        augment=ObjectAugmentConfig(jitter=(0.5, 1.5), color_jitter=0.2),
    ),
    # Minutes to an hour on a CPU, from nothing: small images, narrow heads.
    "quick": DetectionRecipe(
        epochs=12,
        batch_size=4,
        min_size=256,
        max_size=352,
        ema=0.99,
        backbone=BackboneConfig(ls_init_value=0.1),
        heads=HeadConfig(
            out_channels=128, mask_channels=64, smallest_anchor=8, boxes_per_image=128, proposals=1000, detections=300
        ),
        optim=OptimConfig(lr=1e-3, warmup=0.1, clip_grad=5.0),
        augment=ObjectAugmentConfig(jitter=(0.8, 1.25), color_jitter=0.1),
    ),
}
