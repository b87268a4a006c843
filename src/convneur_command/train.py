"""``convneur train``: a classifier, and by their names other tasks, from people's own images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from convneur_command.running import DEFAULTS, RunOptions, TaskName, go, recipe_named
from convneur_command.train_detector import KINDS, train_detector_verb
from convneur_command.train_segmenter import train_segmenter_verb
from convneur_options.classification import RECIPES, ClassificationRecipe

if TYPE_CHECKING:
    from convneur.recipes.train import TrainConfig, Trained

RecipeName = Literal["quick", "finetune", "cifar", "imagenet"]


def train_verb(arguments: Sequence[str]) -> Callable[..., None]:
    """Make the verb for the task that the arguments name, with the defaults of their recipe."""
    task_name = next((word for word in arguments[1:2] if word in KINDS), None)
    if task_name is not None:
        return train_detector_verb(task_name, arguments)
    if list(arguments[1:2]) == ["segmentation"]:
        return train_segmenter_verb(arguments)
    name, chosen = recipe_named(arguments, "quick", RECIPES)

    def train(
        data: str,
        task: Annotated[TaskName, tyro.conf.Positional] = "classification",
        recipe: RecipeName = name,
        model: str = "convneur_m1",
        weights: str | None = None,
        train_images: int = 0,
        allow_remote: tyro.conf.FlagCreatePairsOff[bool] = False,
        options: Annotated[RunOptions, tyro.conf.arg(name="")] = DEFAULTS,
        settings: Annotated[ClassificationRecipe, tyro.conf.arg(name="")] = chosen,
    ) -> None:
        """Train a classifier on images, judge it, and write model, numbers and a report.

        Args:
            data: Folder of class folders (with or without train/ and val/), CSV file of images and labels, parquet file
                or folder of them, hf:NAME, wds:FOLDER, or digits for handwritten digits that come with the
                installation.
            task: classification names images, detection finds boxes, instance boxes and masks, segmentation gives every
                pixel a class; the last three have options of their own, see convneur train detection --help.
            recipe: quick: minutes on a CPU. finetune: from --weights. cifar: 32 px. imagenet: the published one.
            model: convneur_m1 to convneur_m4.
            weights: To start from: folder of a run or model of ours, ConvNeXt checkpoint file, or a timm name.
            train_images: To train on at most, in proportion to the classes; 0 for all.
            allow_remote: Read shards from the addresses, and run the commands of the pipe: sources, that the data
                names; only for data of people you trust with your account.
            options: Of every run.
            settings: The recipe's own.
        """
        if task != "classification":
            raise ValueError(f"write convneur train {task} ..., the task first")
        _train(
            options,
            data=data,
            model=model,
            weights=weights,
            recipe=settings,
            train_images=train_images,
            allow_remote=allow_remote,
        )

    return train


def _train(options: RunOptions, **settings: Any) -> None:
    from convneur.printing import Console

    console = Console(stderr=True)
    with console.status("Loading PyTorch and Lightning"):
        from convneur.recipes.train import TrainConfig, train_classifier

    config = TrainConfig(**settings, **options.config())
    go(
        lambda: train_classifier(config, options.out, options.resume, console, options.overwrite),
        lambda trained: _finish(trained, config, options, console),
        options,
        config.recipe.epochs,
    )


def _finish(trained: Trained, config: TrainConfig, options: RunOptions, console: Any) -> None:
    """Judge the model once more on its own, and write everything people take away from the run."""
    from convneur.cli.common import card_beside
    from convneur.cli.judging import card, judge, tell, write_judged
    from convneur.files import write_atomic
    from convneur.models import save_model

    command, out = " ".join(["convneur", *sys.argv[1:]]), options.out
    # Judging may fail, on a held-out file or for want of memory; the model is safe before.
    for each in trained.kept:
        written = card_beside(config.model, each)
        save_model(each.model, out / each.folder, trained.model_args, trained.source.classes, written)
    judged = judge(
        trained.model,
        config.model,
        trained.source,
        trained.preprocessing,
        console,
        workers=config.workers,
        max_pixels=config.max_pixels,
        accelerator=config.recipe.fit.accelerator,
    )
    write_atomic(out / "model" / "README.md", card(config.model, judged, command, trained.kept))
    write_judged(out, judged, command, trained.curve, trained.unreadable, trained.kept)
    tell(judged, *options.written(trained.kept))
