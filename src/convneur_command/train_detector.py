"""``convneur train detection`` and ``instance``: a detector from people's own images and boxes or masks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from convneur_command.running import DEFAULTS, RunOptions, TaskName, go, recipe_named
from convneur_options.detection import DETECTION_RECIPES, DetectionRecipe

if TYPE_CHECKING:
    from convneur.recipes.train_detector import TrainDetectorConfig, TrainedDetector

DetectionRecipeName = Literal["quick-detection", "finetune-detection", "coco-1x"]
# Without masks, with masks; the first is the default.
KINDS: dict[str, tuple[str, ...]] = {
    "detection": ("faster_rcnn", "cascade_rcnn", "retinanet", "fcos"),
    "instance": ("mask_rcnn", "cascade_mask_rcnn"),
}
KindName = Literal["faster_rcnn", "cascade_rcnn", "retinanet", "fcos", "mask_rcnn", "cascade_mask_rcnn"]


def train_detector_verb(task_name: Any, arguments: Sequence[str]) -> Callable[..., None]:
    """Make the verb for one of the two tasks, with the defaults of the recipe that the arguments name."""
    name, chosen = recipe_named(arguments, "quick-detection", DETECTION_RECIPES)
    usual: Any = KINDS[task_name][0]

    def train(
        data: str,
        task: Annotated[TaskName, tyro.conf.Positional] = task_name,
        recipe: DetectionRecipeName = name,
        detector: KindName = usual,
        model: str = "convneur_m1",
        weights: str | None = None,
        options: Annotated[RunOptions, tyro.conf.arg(name="")] = DEFAULTS,
        settings: Annotated[DetectionRecipe, tyro.conf.arg(name="")] = chosen,
    ) -> None:
        """Train a detector on images, judge it, and write model, numbers and a report.

        Args:
            data: Folder with COCO files (instances_train*.json, instances_val*.json), Pascal VOC's folders, YOLO's, or
                the data.yaml of those.
            task: detection finds boxes, instance boxes and masks; see convneur train --help for others.
            recipe: quick-detection: minutes to an hour on a CPU. finetune-detection: from --weights. coco-1x: the
                published one.
            detector: faster_rcnn, cascade_rcnn, retinanet or fcos for boxes; mask_rcnn or cascade_mask_rcnn for masks.
            model: Backbone: convneur_m1 to convneur_m4, or any of timm, such as resnet18.
            weights: To start from: folder of a detector or classifier of ours; ConvNeXt checkpoint file or timm name;
                `pretrained` for a backbone of timm.
            options: Of every run.
            settings: The recipe's own.
        """
        if detector not in KINDS[task]:
            raise ValueError(
                f"--detector {detector} is not for convneur train {task}; give one of {', '.join(KINDS[task])}"
            )
        _train(options, data=data, detector=detector, model=model, weights=weights, recipe=settings)

    return train


def _train(options: RunOptions, **settings: Any) -> None:
    from convneur.printing import Console

    console = Console(stderr=True)
    with console.status("Loading PyTorch and Lightning"):
        from convneur.recipes.train_detector import TrainDetectorConfig, train_detector

    config = TrainDetectorConfig(**settings, **options.config())
    go(
        lambda: train_detector(config, options.out, options.resume, console, options.overwrite),
        lambda trained: _finish(trained, config, options, console),
        options,
        config.recipe.epochs,
    )


def _finish(trained: TrainedDetector, config: TrainDetectorConfig, options: RunOptions, console: Any) -> None:
    """Judge the model once more on its own, and write everything people take away from the run."""
    from convneur.cli import detecting
    from convneur.cli.common import card_beside
    from convneur.files import write_atomic
    from convneur.tasks.detection.saved import save_detector

    command, out = " ".join(["convneur", *sys.argv[1:]]), options.out
    source, name = trained.source, detecting.full_name(config.detector, config.model)
    # Judging may fail, on a held-out file or for want of memory; the model is safe before.
    for each in trained.kept:
        written = card_beside(name, each)
        save_detector(each.model, out / each.folder, trained.arguments, source.classes, source.category_ids, written)
    judged = detecting.judge_detector(
        trained.model,
        config.detector,
        name,
        source,
        console,
        config.workers,
        config.max_pixels,
        config.recipe.fit.accelerator,
    )
    write_atomic(out / "model" / "README.md", detecting.detector_card(judged, command, trained.kept))
    detecting.write_judged_detector(out, judged, command, trained.curve, trained.unreadable, trained.kept)
    detecting.tell_detector(judged, *options.written(trained.kept))
