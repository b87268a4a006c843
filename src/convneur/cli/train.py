"""``convneur train``: a classifier, and by their names other tasks, from people's own images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from convneur.cli.running import TaskName, recipe_named, run
from convneur.cli.train_detector import KINDS, train_detector_verb
from convneur.recipes.classification import RECIPES, ClassificationRecipe

if TYPE_CHECKING:
    from convneur.recipes.train import TrainConfig, Trained

RecipeName = Literal["quick", "finetune", "cifar", "imagenet"]


def train_verb(arguments: Sequence[str]) -> Callable[..., None]:
    """Make the verb for the task that the arguments name, with the defaults of their recipe."""
    task_name = next((word for word in arguments[1:2] if word in KINDS), None)
    if task_name is not None:
        return train_detector_verb(task_name, arguments)
    name, chosen = recipe_named(arguments, "quick", RECIPES)

    def train(
        data: str,
        task: Annotated[TaskName, tyro.conf.Positional] = "classification",
        recipe: RecipeName = name,
        model: str = "convneur_m1",
        out: Path = Path("runs/train"),
        resume: tyro.conf.FlagCreatePairsOff[bool] = False,
        weights: str | None = None,
        seed: int = 0,
        val_share: float = 0.2,
        hold_out: tyro.conf.FlagCreatePairsOff[bool] = False,
        train_images: int = 0,
        workers: int | None = None,
        max_unreadable: float = 0.01,
        max_megapixels: float = 100.0,
        cache_gb: float = 1.0,
        settings: Annotated[ClassificationRecipe, tyro.conf.arg(name="")] = chosen,
    ) -> None:
        """Train a classifier on images, judge it, and write model, numbers and a report.

        Args:
            data: Folder of class folders (with or without train/ and val/), parquet file or folder of them, hf:NAME,
                wds:FOLDER, or digits for handwritten digits that come with the installation.
            task: classification names images; detection finds boxes and instance masks, too, with options of their own:
                convneur train detection --help.
            recipe: quick: minutes on a CPU. finetune: from --weights. cifar: 32 px. imagenet: the published one.
            model: convneur_m1 to convneur_m4.
            out: Folder of the run.
            resume: Go on where the newest whole checkpoint in --out was written.
            weights: To start from: folder of a run or model of ours, ConvNeXt checkpoint file, or a timm name.
            seed: Of everything that is drawn.
            val_share: Share to hold out where the data has no validation images.
            hold_out: Take that share of the training images to judge by even where the data has validation images.
            train_images: To train on at most, in proportion to the classes; 0 for all.
            workers: Processes that load images; as many as suit the machine if not given.
            max_unreadable: Largest share of images that may be unreadable.
            max_megapixels: Larger images count as unreadable.
            cache_gb: GB of memory for decoded images, which saves decoding them again; 0 for none.
            settings: The recipe's own.
        """
        if task != "classification":
            raise ValueError(f"write convneur train {task} ..., the task first")
        _train(
            Path(out),
            resume,
            data=data,
            model=model,
            weights=weights,
            recipe=settings,
            seed=seed,
            val_share=val_share,
            hold_out=hold_out,
            train_images=train_images,
            workers=workers,
            max_unreadable=max_unreadable,
            max_pixels=round(max_megapixels * 1e6),
            cache_gb=cache_gb,
        )

    return train


def _train(out: Path, resume: bool, **settings: Any) -> None:
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("Loading PyTorch and Lightning"):
        from convneur.recipes.train import TrainConfig, train_classifier

    config = TrainConfig(**settings)
    trained = run(lambda: train_classifier(config, out, resume, console), config.recipe.epochs)
    if trained is not None:
        _finish(trained, config, out, console)


def _finish(trained: Trained, config: TrainConfig, out: Path, console: Any) -> None:
    """Judge the model once more on its own, and write everything people take away from the run."""
    from convneur.cli.judging import card, judge, tell, write_judged
    from convneur.models import save_model

    command = " ".join(["convneur", *sys.argv[1:]])
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
    written = card(config.model, judged, command)
    save_model(trained.model, out / "model", trained.model_args, trained.source.classes, written)
    write_judged(out, judged, command, trained.curve, trained.unreadable)
    tell(judged, f"Report: {out / 'report.html'}   model: {out / 'model'}   numbers: {out / 'metrics.json'}")
