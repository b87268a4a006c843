"""Classification: one label per image."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from convneur.data.module import ImageData
from convneur.data.sources import Source, open_source
from convneur.data.subsets import fewer, hold_out
from convneur.models import VARIANTS
from convneur.printing import Console
from convneur.tasks.backbone_utils import refuse_backbone_settings
from convneur.tasks.classification.model import create_classifier
from convneur.tasks.classification.module import Classification
from convneur.tasks.classification.predictor import Classifier
from convneur.tasks.spec import Opened, TaskSpec
from convneur.training.run_folder import Length, at_least, loading_arguments
from convneur_options.classification import RECIPES, ClassificationConfig, ClassificationRecipe


class ClassificationSpec(TaskSpec[ClassificationConfig, ClassificationRecipe, Classifier]):
    """Labels of whole images; ``data`` is as in `convneur.data.sources`."""

    name = "classification"
    config_class = ClassificationConfig
    recipes = RECIPES
    predictor_class = Classifier

    def check(self, config: ClassificationConfig, recipe: ClassificationRecipe) -> None:
        """Refuse what no run can be made of."""
        refuse_backbone_settings(config, recipe, RECIPES)
        at_least(1, {"image-size": recipe.image_size})
        if recipe.fit.strategy == "fsdp2" and config.model not in VARIANTS:
            raise ValueError("--fit.strategy fsdp2 shards convneur_m1 to convneur_m4 only; leave it out, or give ddp")
        if self.largest_batch(recipe, recipe.batch_size) < recipe.batch_size:
            raise ValueError(f"--batch-size {recipe.batch_size} is odd, and Mixup takes images in pairs; make it even")
        on_gpu = recipe.fit.accelerator in ("auto", "gpu") and torch.cuda.is_available()
        if recipe.compile and not on_gpu and shutil.which(os.environ.get("CXX", "g++")) is None:
            raise ValueError(
                "--compile needs a C++ compiler on a CPU; install g++, name another in CXX, or leave it out"
            )
        if recipe.fit.strategy == "fsdp2" and recipe.fit.precision == "fp16":
            raise ValueError("--fit.strategy fsdp2 does not scale losses; give --fit.precision bf16")

    def largest_batch(self, recipe: ClassificationRecipe, images: int) -> int:
        """An even number where images are mixed in pairs."""
        return images - images % 2 if recipe.augment.mixup or recipe.augment.cutmix else images

    def open_data(self, config: ClassificationConfig) -> Opened:
        """Class folders, tables, shards and more."""
        whole = open_source(config.data, config.val_share, config.seed, config.allow_remote)
        if config.hold_out:
            whole = hold_out(whole, config.val_share, config.seed)
        source = fewer(whole, config.train_images, config.seed) if config.train_images else whole
        return Opened(whole, source, {"train": len(source.train), "val": len(source.val), "classes": source.classes})

    def build_model(
        self, config: ClassificationConfig, recipe: ClassificationRecipe, source: Source, console: Console | None = None
    ) -> Classifier:
        """A classifier of the classes of the images."""
        model, arguments = create_classifier(config, recipe, len(source.classes), console)
        described: Any = model.pretrained_cfg
        return Classifier(config.model, model, source.classes, dict(described), arguments)

    def create_again(
        self, predictor: Classifier, config: ClassificationConfig, recipe: ClassificationRecipe
    ) -> nn.Module:
        """The same architecture."""
        return create_classifier(replace(config, weights=None), recipe, len(predictor.classes))[0]

    def make_data(
        self, predictor: Classifier, source: Source, config: ClassificationConfig, recipe: ClassificationRecipe
    ) -> ImageData:
        """Augmented images to train on, and others as the model takes them."""
        return ImageData(
            source,
            predictor.preprocessing(recipe.image_size),
            recipe.augment,
            recipe.batch_size,
            eval_preprocessing=predictor.preprocessing(recipe.eval_size or recipe.image_size),
            **loading_arguments(config, recipe.fit),
        )

    def make_module(
        self,
        predictor: Classifier,
        source: Source,
        config: ClassificationConfig,
        recipe: ClassificationRecipe,
        length: Length,
        console: Console | None = None,
    ) -> Classification:
        """Cross-entropy, with mixed images if the recipe says so."""
        model: Any = predictor.model
        if _is_channels_last(recipe):
            model.to(memory_format=torch.channels_last)
        module = Classification(
            model,
            recipe.optim,
            label_smoothing=recipe.augment.label_smoothing,
            mixup=recipe.augment.mixup,
            cutmix=recipe.augment.cutmix,
            channels_last=_is_channels_last(recipe),
            ema=recipe.ema,
            seed=config.seed,
            images_per_step=length.images_per_step,
            steps=length.steps,
        )
        if recipe.compile:
            model.compile()
        return module

    def unused_parameters(self, predictor: Classifier) -> bool:
        """A causal read of a single chunk writes nothing, so what makes the writes gets no gradient."""
        settings = getattr(predictor.model, "global_config", None)
        return settings is not None and settings.memory.read == "causal"


def _is_channels_last(recipe: ClassificationRecipe) -> bool:
    return recipe.channels_last and recipe.fit.strategy != "fsdp2"  # which shards plain tensors only
