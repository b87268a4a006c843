"""What every training run keeps in its folder, and what it takes to go on with it."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only

from convneur.data.contents import Contents, is_same_place, read_contents, write_contents
from convneur.files import check_folder, write_atomic
from convneur.json_files import read_json
from convneur.notes import AlreadyDone, done_line
from convneur.outputs import OutputFolder
from convneur.printing import Console
from convneur.training.checkpoints import newest_checkpoint
from convneur.training.fit import processes
from convneur_options.fit import FitConfig
from convneur_options.renamed import with_new_names
from convneur_options.run import RunConfig

# Settings that a resumed run may have otherwise: they do not decide what comes out. Data is compared by what it holds.
FREE = (
    "id",
    "data",
    "images.val_names",
    "workers",
    "allow_remote",
    "cache_gb",
    "max_unreadable",
    "recipe.compile",
    "recipe.fit.checkpoint_minutes",
    "recipe.fit.evaluate_every",
    "recipe.fit.wandb",  # of earlier versions
    "recipe.fit.loggers",
)


def check_numbers(config: RunConfig, recipe: Any) -> None:
    """Refuse numbers, by the name of their flag, of which no run of any task can be made.

    Raises:
        ValueError: For the first that is out of range.
    """
    fit: FitConfig = recipe.fit
    at_least(1, {"epochs": recipe.epochs, "batch-size": recipe.batch_size})
    at_least(1, {"fit.accumulate": fit.accumulate, "fit.nodes": fit.nodes, "fit.evaluate-every": fit.evaluate_every})
    at_least(0, {"train-images": config.train_images, "workers": config.workers or 0, "fit.devices": fit.devices})
    at_least(0, {"seed": config.seed, "cache-gb": config.cache_gb, "max-megapixels": config.max_megapixels})
    optim = {f"optim.{name.replace('_', '-')}": number for name, number in vars(recipe.optim).items()}
    at_least(0, {name: each for name, each in optim.items() if not isinstance(each, tuple)})


def at_least(least: float, numbers: Mapping[str, float]) -> None:
    """A ValueError for the first number, by the name of its flag, that is below ``least`` or not finite."""
    for flag, number in numbers.items():
        if not least <= number < float("inf"):
            raise ValueError(f"--{flag} {number} is out of range; give at least {least}")


def loading_arguments(config: RunConfig, fit: FitConfig) -> dict[str, Any]:
    """Arguments of `convneur.data.module.PictureData` that are the same for every task."""
    return {
        "seed": config.seed,
        "workers": config.workers,
        "max_pixels": config.max_pixels,
        "pin_memory": fit.accelerator in ("auto", "gpu") and torch.cuda.is_available(),
        "keep_bytes": round(config.cache_gb * 1e9),
    }


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


def claim(
    settings: Mapping[str, Any],
    whole: Any,
    source: Any,
    out: Path,
    resume: bool,
    console: Console,
    overwrite: bool = False,
) -> str:
    """Keep the settings of a run and what its data holds in its folder; what is there must have the same.

    A finished run that is resumed may have more epochs, and is none that has finished from then on.

    Data may have moved, or be spelled otherwise: the names and sizes of its images decide. To be called by all
    processes; the first writes.

    Args:
        settings: All that decides what comes out, as JSON can hold it; ``data`` is where the images are.
        whole: The images, all that the data has.
        source: Those of them that are trained on and judged by.
        out: Folder of the run.
        resume: Whether the run goes on.
        console: Where it is said that data has moved.
        overwrite: Whether a run that is there is removed.

    Returns:
        What tells the run from all others.

    Raises:
        AlreadyDone: If the run is there, finished.
        ValueError: If a resumed run was begun with others.
        FileExistsError: If a finished run has others.
    """
    data = str(settings["data"])
    images = Contents.of(whole, data)
    now = json.loads(json.dumps(settings))
    identity = uuid.uuid4().hex
    kept, goes_on = out / "run.json", False
    if kept.is_file() and not overwrite:
        before, finished = _settings_of(kept), is_finished(out)
        then, longer = read_contents(out), finished and _epochs(now) > _epochs(before)
        goes_on = longer and resume
        changed = _differences(before, now, ("recipe.epochs",) if goes_on else () if finished else ("keep",))
        changed += _data_differences(before, then, data, images, whole.val)
        changed.sort(key=lambda line: not line.startswith("--"))  # what people set says more than what follows from it
        if changed and resume and is_first():
            raise ValueError(
                f"the run in {out} was begun with {changed[0]}; go on with the same, or give another --out"
            )
        if changed and finished and is_first():
            more = " --resume to go on to more epochs," if longer and len(changed) == 1 else ""
            raise FileExistsError(
                f"--out {out} holds a run already, begun with {changed[0]}; add --overwrite to replace it,{more} or "
                "give another --out"
            )
        if not changed and finished and not goes_on:
            raise AlreadyDone(done_line(f"--out {out}"))
        if goes_on and is_first():
            if newest_checkpoint(out / "checkpoints").path is None:
                raise FileNotFoundError(
                    f"{out} has no whole checkpoint any more to go on from; train anew with another --out"
                )
            console.print(
                f"this run of {_epochs(before)} epochs goes on to {_epochs(now)}; from here its learning rate is that "
                f"of a run of {_epochs(now)} from its beginning"
            )
        if resume:
            identity = str(before.get("id", identity))
            if then is not None and then.root != images.root and is_first():
                console.print(
                    f"the images of this run were in {then.root} and are the same in {images.root}", style="yellow"
                )
    if not is_first():
        return identity
    if both := len(set(images.train) & set(images.val)):
        console.print(
            f"{both:,} of {len(images.val):,} held-out images are trained on, too, so that what they say is too good; "
            "keep them in one part",
            style="yellow",
        )
    with OutputFolder(out, "train", overwrite) as folder:
        if not resume:
            folder.clear()  # what is to be overwritten, or a run without a checkpoint
        if goes_on:
            (
                out / "report.html"
            ).unlink()  # before there is more to do: what is cut off between is known not to be done
        write_atomic(kept, json.dumps(now | {"id": identity}, indent=2) + "\n")  # first: by it the folder is known
        write_contents(out, images)
        if getattr(source, "split", None) is not None:
            write_atomic(out / "split.json", json.dumps(asdict(source.split)) + "\n")
    return identity


def _settings_of(kept: Path) -> dict[str, Any]:
    """Settings of a run, with the names of today."""
    found = with_new_names(read_json(kept, "give another --out"))
    pixels = found.pop("max_pixels", None)
    if isinstance(pixels, int | float):
        found["max_megapixels"] = pixels / 1e6
    return found


def _epochs(settings: Mapping[str, Any]) -> int:
    recipe = settings.get("recipe")
    found: int = recipe.get("epochs", 0) if isinstance(recipe, dict) else 0
    return found


def _data_differences(
    before: dict[str, Any], then: Contents | None, data: str, now: Contents, held_out: Any
) -> list[str]:
    """How the data of a run, as it was begun, differs from what is given now; one line, or none."""
    was = str(before.get("data"))
    if then is None:  # of an earlier version, which kept the names of the held-out images as they were spelled
        if not is_same_place(was, data):
            return [f"--data {was} (now {data})"]
        names = (before.get("images") or {}).get("val_names")
        return ["other held-out images"] if was == data and names not in (None, names_hash(held_out)) else []
    if now.has_same_images(then):
        return []
    if now.root != then.root:
        return [f"--data {was} (now {data}, which has other images)"]
    pairs = ((a, b) for part in ("train", "val") for a, b in zip(getattr(then, part), getattr(now, part), strict=False))
    old, new = next(((a, b) for a, b in pairs if a != b), (None, None))
    return [f"the image {_described(old)} (now {_described(new)})" if old and new else "a number of images"]


def _described(image: tuple[str, int]) -> str:
    return f"{image[0]} of {image[1]:,} bytes"


def _differences(before: dict[str, Any], now: dict[str, Any], free: Sequence[str] = (), prefix: str = "") -> list[str]:
    """Settings that differ and decide what comes out, besides the data and others that are free."""
    found = []
    for key in sorted(set(before) | set(now)):
        old, new, name = before.get(key), now.get(key), prefix + key
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, free, f"{name}.")
        elif (
            old != new and name not in (*FREE, *free) and key in before
        ):  # a setting that is newer than the run is its default
            if name == "max_megapixels":
                old, new = (f"{each:g}" if isinstance(each, int | float) else each for each in (old, new))
            what = (
                name
                if name.startswith(("images.", "processes"))
                else "--" + name.removeprefix("recipe.").replace("_", "-")
            )
            found.append(f"{what} {old} (now {new})")
    return found
