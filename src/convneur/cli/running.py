"""What the training verbs share: which recipe the arguments name, and how a run that is stopped ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro

from convneur.files import write_atomic

TaskName = Literal["classification", "detection", "instance", "segmentation"]

R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True)
class RunOptions:
    """Options of every training run.

    Attributes:
        out: Folder of the run.
        resume: Go on where the newest whole checkpoint in --out was written.
        seed: Of everything that is drawn.
        workers: Processes that load images; as many as suit the machine if not given.
        max_unreadable: Largest share of images that may be unreadable.
        max_megapixels: Larger images count as unreadable.
        cache_gb: GB of memory for decoded images, which saves decoding them again; 0 for none.
    """

    out: Path = Path("runs/train")
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    seed: int = 0
    workers: int | None = None
    max_unreadable: float = 0.01
    max_megapixels: float = 100.0
    cache_gb: float = 1.0

    def config(self) -> dict[str, Any]:
        """Arguments of `convneur.recipes.runs.RunConfig`."""
        return {
            "seed": self.seed,
            "workers": self.workers,
            "max_unreadable": self.max_unreadable,
            "max_pixels": round(self.max_megapixels * 1e6),
            "cache_gb": self.cache_gb,
        }

    def written(self) -> str:
        """Where a run has put what it made."""
        out = self.out
        return f"Report: {out / 'report.html'}   model: {out / 'model'}   numbers: {out / 'metrics.json'}"


DEFAULTS = RunOptions()


MADE = ".convneur-predict"  # names the files of a folder that an earlier prediction made, and the next may replace


class Outputs:
    """Names for what is made from files: none is used twice, and nothing of somebody else is written over.

    Args:
        out: Folder for what is made; it is created.
    """

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.note = out, out / MADE
        made = set(self.note.read_text(encoding="utf-8").splitlines()) if self.note.is_file() else set()
        self.taken = {path.name for path in out.iterdir()} - made
        self.made = made

    def free(self, stem: str, ends: Sequence[str]) -> list[Path]:
        """Paths that begin with ``stem`` or, if one is taken, with a number behind it, and end as given."""
        names, number = [stem + end for end in ends], 1
        while self.taken & set(names):
            number += 1
            names = [f"{stem}-{number}{end}" for end in ends]
        self.taken |= set(names)
        self.made |= set(names)
        write_atomic(self.note, "\n".join(sorted(self.made)) + "\n")
        return [self.out / name for name in names]


def tell_notes(notes: Sequence[str], console: Any) -> None:
    """What was left out of the data, and why."""
    for note in notes:
        console.print(note, style="yellow", soft_wrap=True)


def other_classes(known: Sequence[str], found: Sequence[str]) -> str:
    """What to say where a model and data do not have the same classes."""
    few = [", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "") for names in (known, found)]
    return f"the model knows the classes {few[0]} and the data has {few[1]}; give data of the same classes"


def check_size(image_size: int | None, least: int = 1) -> None:
    """Refuse a size of no pixels, or of fewer."""
    if image_size is not None and image_size < least:
        raise ValueError(f"--image-size {image_size} is out of range; give at least {least}")


def last_words(command: str, versions: Mapping[str, str]) -> str:
    """Last line of a report: the command and versions that made it."""
    return f"{command}   ({', '.join(f'{name} {version}' for name, version in versions.items())})"


def recipe_named(arguments: Sequence[str], default: str, recipes: Mapping[str, R]) -> tuple[Any, R]:
    """Name and values of the recipe that the arguments name; an unknown one is refused by the parser later on."""
    name = default
    for before, word in zip(["", *arguments], arguments, strict=False):
        if before == "--recipe" or word.startswith("--recipe="):
            name = word.removeprefix("--recipe=")
    name = name if name in recipes else default
    return name, recipes[name]


def go(train: Callable[[], T | None], epochs: int) -> T | None:
    """Train; a run that is stopped says how to go on, once.

    Returns:
        What came out; None in all processes but the first.

    Raises:
        KeyboardInterrupt: If it was stopped, with the line to tell.
    """
    from convneur.engine.callbacks import Interrupted
    from convneur.recipes.runs import is_first

    try:
        return train()
    except Interrupted as stop:
        if not is_first():
            return None  # one line is enough, and a failing process would have Lightning kill the first
        done = f"{len(stop.curve)} of {epochs} epochs done"
        raise KeyboardInterrupt(f"stopped, {done}; the same command with --resume goes on from here") from stop
