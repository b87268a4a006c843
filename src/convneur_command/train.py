"""``convneur train``: a model from people's own images, whatever the task."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from convneur_command.running import recipe_named
from convneur_options.classification import RECIPES, ClassificationConfig
from convneur_options.detection import DETECTION_RECIPES, DetectionConfig, InstanceConfig
from convneur_options.segmentation import SEGMENTATION_RECIPES, SegmentationConfig

TaskName = Literal["classification", "detection", "instance", "segmentation"]
TASKS: dict[str, tuple[type[Any], Mapping[str, Any]]] = {
    "classification": (ClassificationConfig, RECIPES),
    "detection": (DetectionConfig, DETECTION_RECIPES),
    "instance": (InstanceConfig, DETECTION_RECIPES),
    "segmentation": (SegmentationConfig, SEGMENTATION_RECIPES),
}


@dataclass(frozen=True)
class RunOptions:
    """Where a run is.

    Attributes:
        out: Folder of the run.
        resume: Go on where the newest whole checkpoint in --out was written; a finished run, to more --epochs.
        overwrite: Remove what an earlier run wrote to --out, and begin anew.
    """

    out: Path
    resume: bool = False
    overwrite: bool = False


def train_verb(arguments: Sequence[str]) -> Callable[..., None]:
    """Make the verb for the task that the arguments name, with the defaults of the recipe that they name.

    tyro's overridable configs would make a subcommand of each recipe, and of --recipe something else.
    """
    named: Any = next((word for word in arguments[1:2] if word in TASKS), "classification")
    config_class, recipes = TASKS[named]
    name, recipe_defaults = recipe_named(arguments, "quick", recipes)
    defaults, here = config_class(data=tyro.MISSING), RunOptions(Path("runs", named))

    def train(
        task: Annotated[TaskName, tyro.conf.Positional] = named,
        recipe: Any = name,
        options: Any = defaults,
        run: Annotated[RunOptions, tyro.conf.arg(name=""), tyro.conf.FlagCreatePairsOff] = here,
        settings: Any = recipe_defaults,
    ) -> None:
        """Train a model on images, evaluate it, and write model, numbers and a report.

        Classification: a folder of class folders (with or without train/ and val/), a CSV file of images and labels, a
        parquet file or folder of them, hf:NAME, wds:FOLDER, or digits, which come with the installation. Detection and
        instance: a folder with COCO files, Pascal VOC's folders, YOLO's, or the data.yaml of those. Segmentation: a
        folder with images/ and masks/ and classes.txt or classes.csv; ADE20K's; Cityscapes'.

        Args:
            task: classification names images, detection finds boxes, instance boxes and masks, segmentation gives
                every pixel a class; each has options of its own, see convneur train detection --help.
            recipe: quick: minutes to an hour on a CPU. finetune: from --weights. The others are the published ones.
            options: Of every run.
            run: Where it is.
            settings: The recipe's own.
        """
        if task != named:
            raise ValueError(f"write convneur train {task} ..., the task first")
        _train(task, options, settings, run)

    # What differs with the task; annotations are read as text, which cannot name these.
    train.__annotations__ |= {
        "recipe": Literal[tuple(recipes)],
        "options": Annotated[config_class, tyro.conf.arg(name=""), tyro.conf.FlagCreatePairsOff],
        "settings": Annotated[type(recipe_defaults), tyro.conf.arg(name="")],
    }
    return train


def _train(task: str, config: Any, recipe: Any, run: RunOptions) -> None:
    from convneur.printing import Console

    console = Console(stderr=True)
    with console.status("Loading PyTorch and Lightning"):
        from convneur.tasks.registry import task_named
        from convneur.training.kept import epochs_line
        from convneur.training.run import train

    command = " ".join(["convneur", *sys.argv[1:]])
    trained = train(task_named(task), config, recipe, run.out, run.resume, run.overwrite, console, command)
    if trained is not None:
        out = run.out
        where = f"Report: {out / 'report.html'}   model: {out / 'model'}   numbers: {out / 'metrics.json'}"
        result, kept = trained
        result.show(epochs_line(kept), where)
