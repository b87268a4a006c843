"""Recipes for classification: named, whole configurations, and what they are made of; importing them costs nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from convneur.data.transforms import AugmentConfig
from convneur.engine.config import FitConfig
from convneur.engine.optim import OptimConfig


@dataclass(frozen=True)
class BackboneConfig:
    """What of the model can be changed; None stands for what the preset says.

    Attributes:
        preset: Global branch as a whole: ``slots``, ``linear`` (of earlier versions), or ``published`` (the paper's).
        global_placement: Which blocks have a global branch; ``none`` is a plain ConvNeXt.
        fusion: How its answer meets the local features.
        token_strides: Pixels of a stage's map per token.
        memory_width: Width of the memory.
        center_tokens: Take the mean of an image's tokens off each.
        token_skip: Let the gate follow from each token itself, too.
        token_mixer: What reads the tokens: the memory, or something else to compare it with.
        dims: Channels of the stages, if not the variant's.
        depths: Blocks of the stages, if not the variant's.
        state: Memory: what is written, slots or fast weights.
        read: Memory: every token reads after all writes, or in order.
        anchor: Memory: where the inner gradient is taken.
        chunk_size: Memory: tokens per write.
        patch_size: Stride of the stem.
        ls_init_value: Initial layer scale.
        drop_path_rate: Stochastic depth of the last block.
    """

    preset: Literal["slots", "linear", "published"] = "slots"
    global_placement: Literal["per_stage", "per_layer", "none"] | None = None
    fusion: Literal["gate", "add", "gate_add", "concat"] | None = None
    token_strides: tuple[int, ...] | None = None
    memory_width: int | None = None
    center_tokens: bool | None = None
    token_skip: bool | None = None
    token_mixer: str | None = None
    dims: tuple[int, ...] | None = None
    depths: tuple[int, ...] | None = None
    state: Literal["slots", "linear", "mlp"] | None = None
    read: Literal["global", "causal"] | None = None
    anchor: Literal["initial", "previous"] | None = None
    chunk_size: int | None = None
    patch_size: int = 4
    ls_init_value: float = 1e-6
    drop_path_rate: float = 0.0

    def arguments(self) -> dict[str, Any]:
        """Arguments of `convneur.create_model`, as JSON can hold them."""
        knobs = {name: getattr(self, name) for name in ("state", "read", "anchor", "chunk_size")}
        memory = {name: value for name, value in knobs.items() if value is not None}
        given = {name: value for name, value in vars(self).items() if name not in knobs and value is not None}
        given = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
        return given | ({"memory": memory} if memory else {})


@dataclass(frozen=True)
class ClassificationRecipe:
    """How a classifier is trained.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per batch of one process.
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
