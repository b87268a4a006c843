"""Recipes for classification: named, whole configurations, and what they are made of; importing them costs nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from convneur_options.augment import AugmentConfig
from convneur_options.backbone import BackboneConfig
from convneur_options.fit import FitConfig
from convneur_options.optim import OptimConfig
from convneur_options.run import RunConfig


@dataclass(frozen=True)
class ClassificationConfig(RunConfig):
    """One training run of a classifier.

    Attributes:
        allow_remote: Read shards from the addresses, and run the commands of the pipe: sources, that the data names;
            only for data of people you trust with your account.
    """

    allow_remote: bool = False


@dataclass(frozen=True)
class ClassificationRecipe:
    """How a classifier is trained.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per batch of one process; all that there are, if they are fewer.
        image_size: Pixels a side in training.
        eval_size: Pixels a side in evaluation; 0 for the same.
        crop_pct: Part of the resized image that evaluation looks at.
        ema: Decay of the average of the weights that is kept; 0 for none.
        channels_last: Memory format of the images.
        compile: Run the model through torch.compile.
        backbone: The model.
        optim: Optimizer and schedule.
        augment: How training images are varied.
        fit: Where to train, and in which precision.
    """

    epochs: int = 300
    batch_size: int = 128
    image_size: int = 224
    eval_size: int = 0
    crop_pct: float = 0.875
    ema: float = 0.0
    channels_last: bool = True
    compile: bool = False
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    fit: FitConfig = field(default_factory=FitConfig)


RECIPES: dict[str, ClassificationRecipe] = {
    # The published recipe: 300 epochs at 224 px with DeiT's augmentation and rate (5e-4 for 512 images).
    "imagenet": ClassificationRecipe(
        ema=0.9999,
        backbone=BackboneConfig(drop_path_rate=0.1),
        optim=OptimConfig(lr=5e-4, lr_batch=512, warmup=5 / 300),
        fit=FitConfig(precision="bf16"),
    ),
    # From a trained checkpoint: low rates, lower still near the stem, the new classifier first.
    "finetune": ClassificationRecipe(
        epochs=30,
        batch_size=64,
        crop_pct=0.95,
        ema=0.999,
        backbone=BackboneConfig(drop_path_rate=0.05),
        optim=OptimConfig(lr=5e-4, lr_batch=128, layer_decay=0.8, head_first=0.05, clip_grad=1.0),
        augment=AugmentConfig(scale=(0.35, 1.0), auto_augment="rand-m7-mstd0.5-inc1", mixup=0.1, cutmix=0.5),
    ),
    # 32 px: a stem of stride 2, and tokens on a grid twice as fine as the default's.
    "cifar": ClassificationRecipe(
        epochs=100,
        image_size=32,
        crop_pct=1.0,
        ema=0.999,
        backbone=BackboneConfig(patch_size=2, token_strides=(2, 1, 1, 1), ls_init_value=0.1, drop_path_rate=0.05),
        optim=OptimConfig(lr=2e-3, lr_batch=128, clip_grad=1.0),
        augment=AugmentConfig(
            crop="rkrr", scale=(0.8, 1.2), auto_augment="rand-m5-mstd0.5-inc1", erasing=0.1, mixup=0.2, cutmix=0.5
        ),
    ),
    # Minutes on a CPU: small images, light augmentation, a short schedule.
    "quick": ClassificationRecipe(
        epochs=22,
        batch_size=64,
        image_size=64,
        crop_pct=1.0,
        ema=0.99,
        channels_last=False,  # no gain on a CPU
        backbone=BackboneConfig(ls_init_value=0.1),
        optim=OptimConfig(lr=2e-3, clip_grad=1.0),
        augment=AugmentConfig(
            scale=(0.35, 1.0), auto_augment="none", color_jitter=0.2, erasing=0.0, mixup=0.0, cutmix=0.0
        ),
    ),
}

# For an ablation on mosaics of photographs. The rate of the global branch is that of the local ones, and the average
# of squared gradients is shorter: this task begins on a plateau, where no model can do better than guess.
MOSAIC = ClassificationRecipe(
    epochs=15,
    batch_size=32,
    channels_last=False,
    backbone=BackboneConfig(ls_init_value=1.0),
    optim=OptimConfig(lr=1e-3, global_lr_scale=1.0, betas=(0.9, 0.95), clip_grad=1.0),
    augment=AugmentConfig(auto_augment="none", mixup=0.0, cutmix=0.0),
)
