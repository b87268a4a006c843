"""What every training run keeps in its folder, and what it takes to go on with it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor

from convneur.data.decode import MAX_PIXELS
from convneur.data.unreadable import Unreadable
from convneur.engine.checkpoints import last_checkpoint, load_checkpoint
from convneur.engine.config import FitConfig
from convneur.engine.fit import Curve, fit, processes
from convneur.files import check_folder, write_atomic
from convneur.json_files import read_json
from convneur.notes import AlreadyDone, done_line
from convneur.outputs import OutputFolder
from convneur.printing import Console

# Settings that a resumed run may have otherwise: they do not decide what comes out.
FREE = (
    "workers",
    "allow_remote",
    "cache_gb",
    "max_unreadable",
    "recipe.compile",
    "recipe.fit.checkpoint_minutes",
    "recipe.fit.evaluate_every",
    "recipe.fit.wandb",
)


@dataclass(frozen=True)
class RunConfig:
    """What decides a training run, whatever the task.

    Attributes:
        data: Where the images are.
        model: Backbone.
        weights: To start from; None for none.
        seed: Of weights, order, augmentation and everything drawn.
        workers: Processes that load images; None for as many as suit the machine.
        max_unreadable: Largest share of images that may be unreadable.
        max_pixels: Larger images count as unreadable.
        cache_gb: Memory of each training process and its loaders for decoded images, in GB; 0 for none.
    """

    data: str
    model: str = "convneur_m1"
    weights: str | None = None
    seed: int = 0
    workers: int | None = None
    max_unreadable: float = 0.01
    max_pixels: int = MAX_PIXELS
    cache_gb: float = 1.0

    def loading(self, config: FitConfig) -> dict[str, Any]:
        """Arguments of `convneur.data.module.PictureData`."""
        return {
            "seed": self.seed,
            "workers": self.workers,
            "max_pixels": self.max_pixels,
            "pin_memory": config.accelerator in ("auto", "gpu") and torch.cuda.is_available(),
            "keep_bytes": round(self.cache_gb * 1e9),
        }

    def check(self, recipe: Any, at_least_one: Mapping[str, float], at_least_zero: Mapping[str, float]) -> None:
        """Refuse numbers, by the name of their flag, of which no run can be made; those of ``fit`` and ``optim`` too.

        Raises:
            ValueError: For the first that is out of range.
        """
        config: FitConfig = recipe.fit
        ones = {"fit.accumulate": config.accumulate, "fit.nodes": config.nodes}
        ones |= {"fit.evaluate-every": config.evaluate_every}
        zeros: dict[str, float] = {"workers": self.workers or 0, "fit.devices": config.devices, "seed": self.seed}
        optim = {f"optim.{name.replace('_', '-')}": number for name, number in vars(recipe.optim).items()}
        zeros |= {"cache-gb": self.cache_gb} | {
            name: each for name, each in optim.items() if not isinstance(each, tuple)
        }
        for least, numbers in ((1, {**at_least_one, **ones}), (0, {**at_least_zero, **zeros})):
            for flag, number in numbers.items():
                if not least <= number < float("inf"):
                    raise ValueError(f"--{flag} {number} is out of range; give at least {least}")


@dataclass(frozen=True)
class Length:
    """How long a run is, and over how many processes.

    Attributes:
        world: Processes.
        images_per_step: Over all processes and accumulated batches.
        steps: Of the optimizer.
    """

    world: int
    images_per_step: int
    steps: int

    @classmethod
    def of(cls, recipe: Any, data: Any) -> Length:
        """That of a recipe (``epochs``, ``batch_size``, ``fit``) on a `convneur.data.module.PictureData`."""
        devices, nodes = processes(recipe.fit)
        world = devices * nodes
        steps = recipe.epochs * -(-data.steps_per_epoch(world) // recipe.fit.accumulate)
        return cls(world, recipe.batch_size * recipe.fit.accumulate * world, steps)


def is_first() -> bool:
    """Whether this is the one process that writes files; known before the processes know each other."""
    return getattr(rank_zero_only, "rank", 0) in (0, None) and os.environ.get("NODE_RANK", "0") == "0"


@contextmanager
def run_folder(out: Path, resume: bool = False, overwrite: bool = False) -> Iterator[OutputFolder | None]:
    """The folder of a run, this process's alone; nothing in all processes but the first.

    Raises:
        FileNotFoundError: If there is nothing to resume.
        FileExistsError: If there is a run that is neither to be resumed nor overwritten, or anything else.
        BlockingIOError: If another process is at work there.
        OSError: If nothing can be written there.
    """
    if resume and overwrite:
        raise ValueError("--resume goes on with a run and --overwrite begins it anew; give one of them")
    if not is_first():
        yield None
        return
    if resume and not (out / "run.json").is_file():
        check_folder(out)
        raise FileNotFoundError(f"--out {out} holds no run to go on with; leave --resume out to begin one")
    with OutputFolder(out, "train", overwrite) as folder:
        if not (resume or overwrite or is_finished(out)) and any((out / "checkpoints").glob("*.ckpt")):
            raise FileExistsError(
                f"--out {out} holds a run already; add --resume to go on with it, or --overwrite to begin it anew"
            )
        yield folder


def is_finished(out: Path) -> bool:
    """Whether a run has come to its end: the report is what is written last."""
    return (out / "report.html").is_file()


def names_hash(images: Any) -> str:
    """A number for which images there are, by their names."""
    names = "\n".join(images.name(index) for index in range(len(images)))
    return hashlib.sha1(names.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


def claim(config: Any, facts: Mapping[str, Any], out: Path, resume: bool, overwrite: bool = False) -> None:
    """Keep the settings of a run, and facts about its data, in ``run.json``; what is there must have the same.

    To be called by all processes; the first writes.

    Args:
        config: Dataclass of the settings.
        facts: What else decides what comes out.
        out: Folder of the run.
        resume: Whether the run goes on.
        overwrite: Whether a run that is there is removed.

    Raises:
        AlreadyDone: If the run is there, finished.
        ValueError: If a resumed run was begun with others.
        FileExistsError: If a finished run has others.
    """
    now = json.loads(json.dumps(asdict(config) | dict(facts)))
    kept = out / "run.json"
    if kept.is_file() and not overwrite:
        changed = _differences(read_json(kept, "give another --out"), now)
        changed.sort(key=lambda line: not line.startswith("--"))  # what people set says more than what follows from it
        if changed and resume and is_first():
            raise ValueError(
                f"the run in {out} was begun with {changed[0]}; go on with the same, or give another --out"
            )
        if changed and is_finished(out) and is_first():
            raise FileExistsError(
                f"--out {out} holds a run already, begun with {changed[0]}; add --overwrite to replace it, or give "
                "another --out"
            )
        if not changed and is_finished(out):
            raise AlreadyDone(done_line(f"--out {out}"))
    if not is_first():
        return
    with OutputFolder(out, "train", overwrite) as folder:
        if not resume:
            folder.clear()  # what is to be overwritten, or a run without a checkpoint
        write_atomic(kept, json.dumps(now, indent=2) + "\n")


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """Settings that differ and decide what comes out."""
    found = []
    for key in sorted(set(before) | set(now)):
        old, new, name = before.get(key), now.get(key), prefix + key
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{name}.")
        elif old != new and name not in FREE and key in before:  # a setting that is newer than the run is its default
            what = (
                name
                if name.startswith(("images.", "processes"))
                else "--" + name.removeprefix("recipe.").replace("_", "-")
            )
            found.append(f"{what} {old} (now {new})")
    return found


def fit_recipe(
    task: Any,
    data: Any,
    config: RunConfig,
    recipe: Any,
    out: Path,
    checkpoint: Path | None,
    console: Console,
    find_unused_parameters: bool,
) -> tuple[Curve, Unreadable]:
    """Train as a recipe says.

    Args:
        task: A `convneur.tasks.base.Task`.
        data: A `convneur.data.module.PictureData`.
        config: Of the run.
        recipe: With ``epochs``, ``batch_size``, ``optim`` and ``fit``.
        out: Folder of the run.
        checkpoint: To go on from.
        console: For progress.
        find_unused_parameters: Whether some steps leave parameters without gradient, for several processes.

    Returns:
        Metrics after each epoch, and what could not be read.
    """
    unreadable = Unreadable(len(data.source.train) + len(data.source.val), config.max_unreadable)
    curve = fit(
        task,
        data,
        recipe.epochs,
        recipe.batch_size,
        config.model,
        console,
        recipe.fit,
        out,
        checkpoint,
        [unreadable],
        recipe.optim.clip_grad,
        find_unused_parameters,
    )
    return curve, unreadable


def final_weights(out: Path, averaged: bool) -> dict[str, Tensor]:
    """Weights of the last checkpoint: whole on one device, however training spread them.

    Args:
        out: Folder of the run.
        averaged: Whether the average of the weights is meant.

    Raises:
        DamagedError: If it is not as it was written.
    """
    kept = load_checkpoint(last_checkpoint(out / "checkpoints"))["state_dict"]
    prefix = "ema.module." if averaged else "model."
    return {k.removeprefix(prefix): v for k, v in kept.items() if k.startswith(prefix)}
