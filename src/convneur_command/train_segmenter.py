"""``convneur train segmentation``: a class for every pixel, from people's own images and masks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from convneur_command.running import DEFAULTS, RunOptions, TaskName, go, recipe_named
from convneur_options.segmentation import SEGMENTATION_RECIPES, SegmentationRecipe

if TYPE_CHECKING:
    from convneur.recipes.train_segmenter import TrainedSegmenter, TrainSegmenterConfig

SegmentationRecipeName = Literal["quick-segmentation", "finetune-segmentation", "ade20k"]
DecoderChoice = Literal["semantic_fpn", "upernet", "unet", "segformer", "deeplabv3plus"]


def train_segmenter_verb(arguments: Sequence[str]) -> Callable[..., None]:
    """Make the verb with the defaults of the recipe that the arguments name."""
    name, chosen = recipe_named(arguments, "quick-segmentation", SEGMENTATION_RECIPES)

    def train(
        data: str,
        task: Annotated[TaskName, tyro.conf.Positional] = "segmentation",
        recipe: SegmentationRecipeName = name,
        decoder: DecoderChoice = "semantic_fpn",
        model: str = "convneur_m1",
        weights: str | None = None,
        strict: tyro.conf.FlagCreatePairsOff[bool] = False,
        options: Annotated[RunOptions, tyro.conf.arg(name="")] = DEFAULTS,
        settings: Annotated[SegmentationRecipe, tyro.conf.arg(name="")] = chosen,
    ) -> None:
        """Train a segmentation model on images and masks, judge it, and write model, numbers and a report.

        Args:
            data: Folder with images/ and masks/ (in train/ and val/ or not) and classes.txt or classes.csv; ADE20K's;
                Cityscapes'.
            task: segmentation gives every pixel a class; see convneur train --help for others.
            recipe: quick-segmentation: minutes to an hour on a CPU. finetune-segmentation: from --weights. ade20k: the
                published one.
            decoder: semantic_fpn and upernet are the published ones.
            model: Backbone: convneur_m1 to convneur_m4, or any of timm, such as resnet18.
            weights: To start from: folder of a run of ours, whatever its task; ConvNeXt checkpoint file or timm name;
                `pretrained` for a backbone of timm.
            strict: Masks that cannot be used, or have pixels of no class, are errors; they are left out otherwise.
            options: Of every run.
            settings: The recipe's own.
        """
        _train(
            options,
            data=data,
            decoder=decoder,
            model=model,
            weights=weights,
            recipe=settings,
            strict=strict,
        )

    return train


def _train(options: RunOptions, **settings: Any) -> None:
    from convneur.printing import Console

    console = Console(stderr=True)
    with console.status("Loading PyTorch and Lightning"):
        from convneur.recipes.train_segmenter import TrainSegmenterConfig, train_segmenter

    config = TrainSegmenterConfig(**settings, **options.config())
    go(
        lambda: train_segmenter(config, options.out, options.resume, console, options.overwrite),
        lambda trained: _finish(trained, config, options, console),
        options,
        config.recipe.epochs,
    )


def _finish(trained: TrainedSegmenter, config: TrainSegmenterConfig, options: RunOptions, console: Any) -> None:
    """Judge the model once more on its own, and write everything people take away from the run."""
    from convneur.cli import segmenting
    from convneur.cli.common import card_beside
    from convneur.files import write_atomic
    from convneur.tasks.segmentation.saved import save_segmenter

    command, out = " ".join(["convneur", *sys.argv[1:]]), options.out
    code, name = trained.source.code, segmenting.full_name(config.decoder, config.model)
    # Judging may fail, on a held-out file or for want of memory; the model is safe before.
    for each in trained.kept:
        written = card_beside(name, each)
        save_segmenter(each.model, out / each.folder, trained.arguments, code, trained.inference, written)
    judged = segmenting.judge_segmenter(
        trained.model,
        name,
        trained.source,
        trained.inference,
        console,
        config.workers,
        config.max_pixels,
        config.recipe.fit.accelerator,
        config.strict,
    )
    write_atomic(out / "model" / "README.md", segmenting.segmenter_card(judged, command, trained.kept))
    judged.told.unknown_labels |= trained.unknown_labels
    segmenting.write_judged_segmenter(out, judged, command, trained.curve, trained.unreadable, trained.kept)
    segmenting.tell_segmenter(judged, *options.written(trained.kept))
