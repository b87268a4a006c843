"""What the training verbs share: which recipe the arguments name, and how a run that is stopped ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import tyro

if TYPE_CHECKING:
    from convneur.recipes.fitting import Kept

TaskName = Literal["classification", "detection", "instance", "segmentation"]

R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True)
class RunOptions:
    """Options of every training run.

    Attributes:
        out: Folder of the run.
        resume: Go on where the newest whole checkpoint in --out was written; a finished run, to more --epochs.
        overwrite: Remove what an earlier run wrote to --out, and begin anew.
        seed: Of everything that is drawn.
        workers: Processes that load images; as many as suit the machine if not given.
        max_unreadable: Largest share of images that may be unreadable.
        max_megapixels: Larger images count as unreadable.
        cache_gb: GB of memory for decoded images, which saves decoding them again; 0 for none.
        keep: Which epoch model/ has: the last, or the one that is best on the held-out images (accuracy, ap, miou),
            whose number there is then somewhat too good. The other lies beside it, in model-best/ or model-last/.
        val_share: Share to hold out where the data has no validation images.
        hold_out: Take that share of the training images to judge by even where the data has validation images.
    """

    out: Path = Path("runs/train")
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    seed: int = 0
    workers: int | None = None
    max_unreadable: float = 0.01
    max_megapixels: float = 100.0
    cache_gb: float = 1.0
    keep: Literal["last", "best"] = "last"
    val_share: float = 0.2
    hold_out: tyro.conf.FlagCreatePairsOff[bool] = False

    def config(self) -> dict[str, Any]:
        """Arguments of `convneur.recipes.runs.RunConfig`."""
        return {
            "seed": self.seed,
            "workers": self.workers,
            "max_unreadable": self.max_unreadable,
            "max_pixels": round(self.max_megapixels * 1e6),
            "cache_gb": self.cache_gb,
            "keep": self.keep,
            "val_share": self.val_share,
            "hold_out": self.hold_out,
        }

    def written(self, kept: Sequence[Kept]) -> tuple[str, str]:
        """Lines that say of which epochs the models of a run are, and where all that it made is."""
        from convneur.cli.common import epochs_line

        out = self.out
        where = f"Report: {out / 'report.html'}   model: {out / 'model'}   numbers: {out / 'metrics.json'}"
        return epochs_line(kept), where


DEFAULTS = RunOptions()


def recipe_named(arguments: Sequence[str], default: str, recipes: Mapping[str, R]) -> tuple[Any, R]:
    """Name and values of the recipe that the arguments name; an unknown one is refused by the parser later on."""
    name = default
    for before, word in zip(["", *arguments], arguments, strict=False):
        if before == "--recipe" or word.startswith("--recipe="):
            name = word.removeprefix("--recipe=")
    name = name if name in recipes else default
    return name, recipes[name]


def go(train: Callable[[], T | None], finish: Callable[[T], None], options: RunOptions, epochs: int) -> None:
    """Train and finish, alone in the folder of the run; a run that is stopped says how to go on, once.

    Args:
        train: Gives what came out; None in all processes but the first.
        finish: Saves that, judges it, and writes the report last of all.
        options: Of the run.
        epochs: Of the run.

    Raises:
        AlreadyDone: If the run is there, finished.
        KeyboardInterrupt: If it was stopped, with the line to tell.
    """
    from convneur.engine.callbacks import Interrupted
    from convneur.interrupts import stopped
    from convneur.notes import AlreadyDone
    from convneur.recipes.runs import is_first, run_folder

    try:
        with run_folder(options.out, options.resume, options.overwrite):
            trained = train()
            if trained is not None:
                try:
                    finish(trained)
                except KeyboardInterrupt as stop:
                    line = "stopped before the model was judged; the same command with --resume judges it"
                    raise type(stop)(line) from stop
    except AlreadyDone:
        if is_first():
            raise
    except Interrupted as stop:
        if not is_first():
            return  # one line is enough, and a failing process would have Lightning kill the first
        done = f"{len(stop.curve)} of {epochs} epochs done"
        raise stopped(stop.number, f"stopped, {done}; the same command with --resume goes on from here") from stop
