"""Recipes for segmentation; importing them costs nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from convneur_options.backbone import BackboneConfig
from convneur_options.fit import FitConfig
from convneur_options.optim import OptimConfig
from convneur_options.run import RunConfig

DecoderName = Literal["semantic_fpn", "upernet", "unet", "segformer", "deeplabv3plus"]


@dataclass(frozen=True)
class SegmentationConfig(RunConfig):
    """One training run of a segmentation model.

    Attributes:
        decoder: What stands on the backbone; semantic_fpn and upernet are the published ones.
        strict: Masks that cannot be used, or have pixels of no class, are errors; they are left out otherwise.
    """

    decoder: DecoderName = "semantic_fpn"
    strict: bool = False


@dataclass(frozen=True)
class LossConfig:
    """What the model is wrong about.

    Attributes:
        balance: ``root`` weighs classes by one over the root of how many pixels they have; it looks at all masks first.
        hard: Share of the pixels, those that are most wrong, that count; 1 for all.
        dice: Weight of the Dice loss beside cross-entropy.
    """

    balance: Literal["none", "root"] = "none"
    hard: float = 1.0
    dice: float = 0.0


@dataclass(frozen=True)
class PixelAugmentConfig:
    """How training images and their masks are varied.

    Attributes:
        scales: Least and largest factor that images are resized by, over ``inference.size`` if there is one.
        crop: Height and width of what is cropped then.
        most: Largest share of a crop that one class may have; drawn anew until then, ten times at most.
        hflip: Probability of left for right.
        color_jitter: Strength of changes to brightness, contrast and saturation.
    """

    scales: tuple[float, float] = (0.5, 2.0)
    crop: tuple[int, int] = (512, 512)
    most: float = 0.75
    hflip: float = 0.5
    color_jitter: float = 0.4


@dataclass(frozen=True)
class Inference:
    """How the model is asked about an image, in evaluation and later.

    Attributes:
        size: Pixels that the shorter side is resized to; 0 to leave images as they are.
        window: Pixels a side of tiles that are looked at one by one, so that memory follows from the tile; 0 for whole
            images.
        margin: Pixels at each side of a tile, within the image, that are looked at and not answered.
        scales: Factors; answers are averaged over them.
        flip: Average over the mirrored image, too.
    """

    size: int = 0
    window: int = 0
    margin: int = 32
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False


@dataclass(frozen=True)
class SegmentationRecipe:
    """How a segmentation model is trained.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per batch of one process; all that there are, if they are fewer.
        decoder_channels: Width of the decoder; 0 for what it has by itself, which is all that U-Net takes.
        frozen_stages: Of the backbone, that learn nothing; the stem counts as the first.
        ema: Decay of the average of the weights that is kept; 0 for none.
        backbone: The backbone, where it is a ConvNeur.
        loss: What the model is wrong about.
        optim: Optimizer and schedule.
        augment: How training images are varied.
        inference: How the model is asked.
        fit: Where to train, and in which precision.
    """

    epochs: int = 100
    batch_size: int = 8
    decoder_channels: int = 0
    frozen_stages: int = 0
    ema: float = 0.0
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    augment: PixelAugmentConfig = field(default_factory=PixelAugmentConfig)
    inference: Inference = field(default_factory=Inference)
    fit: FitConfig = field(default_factory=FitConfig)


SEGMENTATION_RECIPES: dict[str, SegmentationRecipe] = {
    # ADE20K as published: crops of 512 px, shorter side 512 px in evaluation, 16 images a step, AdamW.
    # 64 epochs of 20,210 images are 80,000 steps, Semantic FPN's; UPerNet's 160,000 are --epochs 127.
    "ade20k": SegmentationRecipe(
        epochs=64,
        batch_size=16,
        backbone=BackboneConfig(drop_path_rate=0.1),
        optim=OptimConfig(lr=1e-4, lr_batch=16, warmup=1500 / 80_000),
        inference=Inference(size=512),
        fit=FitConfig(precision="bf16"),
    ),
    # From a trained backbone or segmentation model, on a few hundred to some ten thousand images of one's own.
    "finetune": SegmentationRecipe(
        epochs=60,
        batch_size=8,
        ema=0.999,
        backbone=BackboneConfig(drop_path_rate=0.05),
        optim=OptimConfig(lr=3e-4, lr_batch=16, layer_decay=0.8, clip_grad=5.0),
    ),
    # Minutes to an hour on a CPU, from nothing: small crops, a narrow decoder.
    "quick": SegmentationRecipe(
        epochs=30,
        batch_size=4,
        decoder_channels=64,
        ema=0.99,
        backbone=BackboneConfig(ls_init_value=0.1),
        loss=LossConfig(balance="root"),
        optim=OptimConfig(lr=2e-3, warmup=0.05, clip_grad=5.0),
        augment=PixelAugmentConfig(scales=(0.6, 1.4), crop=(256, 320), color_jitter=0.2),
    ),
}
