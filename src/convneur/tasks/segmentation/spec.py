"""Segmentation: a class for every pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from convneur.data.contents import smaller
from convneur.data.decode import decode_image
from convneur.data.semantic import IGNORED, PixelSource, open_pixels
from convneur.data.semantic.loading import PixelData, pixel_transform
from convneur.models import VARIANTS
from convneur.printing import Console, Progress
from convneur.tasks.backbone_utils import refuse_backbone_of_some_sizes, refuse_backbone_settings
from convneur.tasks.given_weights import start_from
from convneur.tasks.segmentation.losses import SegmentationLoss, balanced_weights
from convneur.tasks.segmentation.models import Segmenter, create_segmenter
from convneur.tasks.segmentation.module import Segmentation
from convneur.tasks.segmentation.predictor import SegmentationPredictor
from convneur.tasks.segmentation.saved import inference_of
from convneur.tasks.spec import Opened, TaskSpec
from convneur.training.run_folder import Length, at_least, loading_arguments
from convneur_options.segmentation import SEGMENTATION_RECIPES, SegmentationConfig, SegmentationRecipe

# Arguments that are the width of each decoder
WIDTHS: dict[str, tuple[str, ...]] = {
    "semantic_fpn": ("pyramid_channels", "channels"),
    "upernet": ("decoder_channels",),
    "segformer": ("decoder_segmentation_channels",),
    "deeplabv3plus": ("decoder_channels",),
    "unet": (),
}


class SegmentationSpec(TaskSpec[SegmentationConfig, SegmentationRecipe, SegmentationPredictor]):
    """Classes of pixels; ``data`` is as in `convneur.data.semantic.open_pixels`."""

    name = "segmentation"
    config_class = SegmentationConfig
    recipes = SEGMENTATION_RECIPES
    predictor_class = SegmentationPredictor

    def check(self, config: SegmentationConfig, recipe: SegmentationRecipe) -> None:
        """Refuse what no run can be made of."""
        refuse_backbone_settings(config, recipe, SEGMENTATION_RECIPES)
        refuse_backbone_of_some_sizes(config.model)
        augment = recipe.augment
        at_least(1, {"augment.crop": min(augment.crop)})
        at_least(0, {"decoder-channels": recipe.decoder_channels, "frozen-stages": recipe.frozen_stages})
        at_least(0, {"loss.dice": recipe.loss.dice, "augment.color-jitter": augment.color_jitter})
        low, high = augment.scales
        if not 0 < low <= high:
            raise ValueError(f"--augment.scales {low} {high} is no range; give the smaller scale first, above 0")
        if config.decoder == "semantic_fpn" and recipe.decoder_channels % 32:
            raise ValueError(
                f"--decoder-channels {recipe.decoder_channels}: norms of Semantic FPN take channels in groups of 32; "
                "give a multiple of that"
            )
        if config.decoder == "unet" and recipe.decoder_channels:
            raise ValueError("--decoder-channels is not for U-Net, which has widths of its own; give 0")
        if recipe.batch_size == 1 and config.decoder in ("upernet", "deeplabv3plus"):
            raise ValueError(
                f"--batch-size 1 is too few for the norms of {config.decoder}, which see a pixel an image; give at "
                "least 2"
            )
        for flag, share in {"augment.hflip": augment.hflip, "augment.most": augment.most}.items():
            if not 0 <= share <= 1:
                raise ValueError(f"--{flag} {share} is out of range; give 0 to 1")
        if not 0 < recipe.loss.hard <= 1:
            raise ValueError(f"--loss.hard {recipe.loss.hard} is no share of the pixels; give more than 0, at most 1")
        if recipe.fit.strategy == "fsdp2":
            raise ValueError("--fit.strategy fsdp2 shards classifiers only; leave it out, or give ddp")
        inference_of(dict(vars(recipe.inference)), "--inference")  # or nobody could load what is trained

    def open_data(self, config: SegmentationConfig) -> Opened:
        """Folders of images and masks; ADE20K's and Cityscapes'."""
        whole = open_pixels(config.data, config.val_share, config.seed, config.strict, hold_out=config.hold_out)
        source = smaller(whole, config.train_images, config.seed)
        return Opened(whole, source, {"train": len(source.train), "classes": source.classes})

    def build_model(
        self,
        config: SegmentationConfig,
        recipe: SegmentationRecipe,
        source: PixelSource,
        console: Console | None = None,
    ) -> SegmentationPredictor:
        """A model of the classes of the masks."""
        ours = config.model in VARIANTS
        widths = dict.fromkeys(WIDTHS[config.decoder], recipe.decoder_channels) if recipe.decoder_channels else {}
        arguments: dict[str, Any] = {
            "decoder": config.decoder,
            "backbone": config.model,
            "num_classes": len(source.classes),
            "frozen_stages": recipe.frozen_stages,
            "backbone_args": recipe.backbone.arguments() if ours else {},
            **widths,
        }

        def create(**backbone: Any) -> Segmenter:
            return create_segmenter(**arguments | ({"backbone_args": backbone} if backbone else {}))

        model = start_from(create, lambda made: made.body, config, recipe.backbone.arguments(), console)
        inference = inference_of(dict(vars(recipe.inference)), "--inference")
        return SegmentationPredictor(model, arguments, source.code, inference)

    def create_again(
        self, predictor: SegmentationPredictor, config: SegmentationConfig, recipe: SegmentationRecipe
    ) -> nn.Module:
        """By the same arguments."""
        return create_segmenter(**predictor.arguments)

    def make_data(
        self,
        predictor: SegmentationPredictor,
        source: PixelSource,
        config: SegmentationConfig,
        recipe: SegmentationRecipe,
    ) -> PixelData:
        """Images with their masks."""
        augment = recipe.augment
        transform = pixel_transform(
            augment.crop, augment.scales, augment.hflip, augment.color_jitter, augment.most, recipe.inference.size
        )
        return PixelData(source, transform, recipe.batch_size, config.strict, **loading_arguments(config, recipe.fit))

    def make_module(
        self,
        predictor: SegmentationPredictor,
        source: PixelSource,
        config: SegmentationConfig,
        recipe: SegmentationRecipe,
        length: Length,
        console: Console | None = None,
    ) -> Segmentation:
        """Cross-entropy, hard pixels and Dice, as the recipe says."""
        loss, weights = recipe.loss, None
        if loss.balance == "root":
            weights = balanced_weights(_counts(source, config.max_pixels, console))
        return Segmentation(
            predictor.model,
            recipe.optim,
            len(source.classes),
            SegmentationLoss(weights, loss.hard, loss.dice),
            predictor.inference,
            ema=recipe.ema,
            seed=config.seed,
            images_per_step=length.images_per_step,
            steps=length.steps,
        )


def _counts(source: PixelSource, max_pixels: int, console: Console | None) -> list[int]:
    """Pixels of each class in the training masks; those that cannot be used are met, and told, in training."""
    counts = np.zeros(IGNORED + 1, np.int64)
    images = source.train
    with Progress(console=console, transient=True) as progress:
        for index in progress.track(range(len(images)), description="counting the pixels of each class"):
            try:
                picture = decode_image(images.read(index), max_pixels)
                labels, _ = source.code.decode(images.masks.read(index), (picture.height, picture.width))
            except (ValueError, OSError):
                continue
            counts += np.bincount(labels.ravel(), minlength=IGNORED + 1)
    found: list[int] = counts[: len(source.classes)].tolist()
    return found
