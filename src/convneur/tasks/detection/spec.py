"""Detection, and instance segmentation: boxes, and masks of what is in them."""

from __future__ import annotations

from typing import Any, ClassVar

import timm
from torch import nn

from convneur.data.contents import smaller
from convneur.data.objects import ObjectSource, open_objects
from convneur.data.objects.loading import Jitter, ObjectData, train_transform
from convneur.models import VARIANTS
from convneur.printing import Console
from convneur.tasks.backbone_utils import body_of, refuse_backbone_of_some_sizes, refuse_backbone_settings
from convneur.tasks.detection.models import WITH_MASKS, check_arguments, create_detector
from convneur.tasks.detection.module import Detection
from convneur.tasks.detection.predictor import Detector
from convneur.tasks.given_weights import PRETRAINED, start_from
from convneur.tasks.spec import Opened, TaskSpec
from convneur.training.run_folder import Length, at_least, loading_arguments
from convneur_options.detection import (
    DETECTION_RECIPES,
    KINDS,
    DetectionConfig,
    DetectionRecipe,
    InstanceConfig,
)


class DetectionSpec(TaskSpec[DetectionConfig, DetectionRecipe, Detector]):
    """Boxes; ``data`` is as in `convneur.data.objects.open_objects`."""

    name: ClassVar[str] = "detection"
    config_class: ClassVar[type[DetectionConfig]] = DetectionConfig
    recipes = DETECTION_RECIPES
    predictor_class = Detector

    def check(self, config: DetectionConfig, recipe: DetectionRecipe) -> None:
        """Refuse what no run can be made of."""
        if config.detector not in KINDS[self.name]:
            raise ValueError(
                f"--detector {config.detector} is not for convneur train {self.name}; give one of "
                f"{', '.join(KINDS[self.name])}"
            )
        refuse_backbone_settings(config, recipe, DETECTION_RECIPES)
        refuse_backbone_of_some_sizes(config.model)
        heads = {f"heads.{name.replace('_', '-')}": value for name, value in vars(recipe.heads).items()}
        at_least(0, {"heads.frozen-stages": heads.pop("heads.frozen-stages")})
        at_least(1, {"min-size": recipe.min_size, "max-size": recipe.max_size, **heads})
        if recipe.max_size < recipe.min_size:
            raise ValueError(
                f"--max-size {recipe.max_size} is below --min-size {recipe.min_size}; make it at least as much"
            )
        jitter = recipe.augment.jitter
        if jitter is not None and not 0 < jitter[0] <= jitter[1]:
            raise ValueError(
                f"--augment.jitter {jitter[0]} {jitter[1]} is no range; give the smaller scale first, above 0"
            )
        if recipe.fit.strategy == "fsdp2":
            raise ValueError("--fit.strategy fsdp2 shards classifiers only; leave it out, or give ddp")

    def open_data(self, config: DetectionConfig) -> Opened:
        """COCO's files, Pascal VOC's and YOLO's folders."""
        whole = open_objects(
            config.data,
            with_masks=config.detector in WITH_MASKS,
            val_share=config.val_share,
            seed=config.seed,
            hold_out=config.hold_out,
        )
        source = smaller(whole, config.train_images, config.seed)
        return Opened(
            whole,
            source,
            {
                "train": len(source.train),
                "val": len(source.val),
                "classes": source.classes,
                "category_ids": source.category_ids,
            },
        )

    def build_model(
        self, config: DetectionConfig, recipe: DetectionRecipe, source: ObjectSource, console: Console | None = None
    ) -> Detector:
        """A detector of the classes of the images."""
        ours = config.model in VARIANTS
        arguments: dict[str, Any] = {
            "kind": config.detector,
            "backbone": config.model,
            "num_classes": len(source.classes),
            "min_size": recipe.min_size,
            "max_size": recipe.max_size,
            "backbone_args": recipe.backbone.arguments() if ours else {},
            **recipe.heads.arguments(config.detector),
        }
        if config.weights == PRETRAINED:  # they expect images as they were trained on
            described = timm.get_pretrained_cfg(config.model)
            arguments |= {"image_mean": list(described.mean), "image_std": list(described.std)} if described else {}
        check_arguments(arguments, "settings")  # or nobody could load what is trained

        def create(**backbone: Any) -> Any:
            return create_detector(**arguments | ({"backbone_args": backbone} if backbone else {}))

        model = start_from(create, body_of, config, recipe.backbone.arguments(), console)
        return Detector(model, arguments, list(source.classes), list(source.category_ids))

    def create_again(self, predictor: Detector, config: DetectionConfig, recipe: DetectionRecipe) -> nn.Module:
        """By the same arguments, the mean of pixels among them."""
        return create_detector(**predictor.arguments)

    def make_data(
        self, predictor: Detector, source: ObjectSource, config: DetectionConfig, recipe: DetectionRecipe
    ) -> ObjectData:
        """Images with what is on them."""
        augment = recipe.augment
        jitter = Jitter(augment.jitter, recipe.min_size, recipe.max_size) if augment.jitter else None
        return ObjectData(
            source,
            train_transform(augment.hflip, augment.vflip, augment.color_jitter, jitter),
            recipe.batch_size,
            predictor.with_masks,
            **loading_arguments(config, recipe.fit),
        )

    def make_module(
        self,
        predictor: Detector,
        source: ObjectSource,
        config: DetectionConfig,
        recipe: DetectionRecipe,
        length: Length,
        console: Console | None = None,
    ) -> Detection:
        """The detector's own losses."""
        return Detection(
            predictor.model,
            recipe.optim,
            source.val,
            source.classes,
            source.category_ids,
            predictor.with_masks,
            ema=recipe.ema,
            seed=config.seed,
            images_per_step=length.images_per_step,
            steps=length.steps,
        )


class InstanceSpec(DetectionSpec):
    """Boxes and masks."""

    name = "instance"
    config_class = InstanceConfig
