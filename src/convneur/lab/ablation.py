"""Ablations: named tables of models that differ in one thing, every cell trained with the same budget and seeds."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from convneur.data.module import eval_loader
from convneur.data.sources import Source, open_source
from convneur.data.subsets import fewer, hold_out
from convneur.engine.fit import Curve
from convneur.files import write_atomic
from convneur.json_files import read_json
from convneur.lab.photo_mosaics import Tiles
from convneur.lab.train_mosaics import cut, train_on_mosaics
from convneur.layers.prototypes import PROTOTYPES
from convneur.models import create_model
from convneur.models.registry_utils import choose
from convneur.outputs import OutputFolder
from convneur.printing import Console
from convneur.recipes.train import TrainConfig, Trained, train_classifier
from convneur.tasks.evaluation import device_for, evaluate
from convneur_options.backbone import BackboneConfig
from convneur_options.classification import ClassificationRecipe
from convneur_options.mosaic import MosaicConfig

REFERENCE = "local-only"
HOLD_OUT = 0.2  # share of the training images to judge by
WAIT = 10.0  # seconds for another ablation that begins in the same folder
LOCAL: dict[str, Any] = {"global_placement": "none"}

LINEAR: dict[str, Any] = {"preset": "linear"}

# What a cell changes of the default model. Causal chunks are short: a small image has few tokens.
TABLES: dict[str, dict[str, dict[str, Any]]] = {
    # The most telling cells of all tables, for where there is no time for all.
    "core": {
        REFERENCE: LOCAL,
        "memory": {},
        "pointwise control": {"token_mixer": "pointwise"},
        "squeeze-excitation": {"token_mixer": "se"},
        "self-attention": {"token_mixer": "attention"},
        "memory, linear": LINEAR,
        "memory, mlp": {"state": "mlp"},
        "memory, linear, causal": LINEAR | {"read": "causal", "chunk_size": 16},
        "memory, mlp, causal": {"state": "mlp", "read": "causal", "chunk_size": 16},
        "gate alone": {"fusion": "gate"},
        "gate alone, tokens not carried": {"fusion": "gate", "token_skip": False},
        "added": {"fusion": "add"},
        "per layer": {"global_placement": "per_layer"},
        "full resolution": {"token_strides": (1, 1, 1, 1)},
    },
    "token_mixer": {
        REFERENCE: LOCAL,
        "pointwise control": {"token_mixer": "pointwise"},
        "memory": {},
        "memory, linear": LINEAR,
        "memory, mlp": {"state": "mlp"},
        "squeeze-excitation": {"token_mixer": "se"},
        "CBAM": {"token_mixer": "cbam"},
        "non-local": {"token_mixer": "non_local"},
        "self-attention": {"token_mixer": "attention"},
        "RWKV, bidirectional": {"token_mixer": "rwkv"},
        "Titans": {"token_mixer": "titans"},
    },
    "memory": {
        REFERENCE: LOCAL,
        "pointwise control": {"token_mixer": "pointwise"},
        "slots": {},
        "slots, tokens not carried": {"token_skip": False},
        "linear, global": LINEAR,
        "linear, causal": LINEAR | {"read": "causal", "chunk_size": 16},
        "mlp, global": {"state": "mlp"},
        "mlp, causal": {"state": "mlp", "read": "causal", "chunk_size": 16},
        "linear, global, in order": LINEAR | {"chunk_size": 16, "anchor": "previous"},
        "linear, global, not centred": LINEAR | {"center_tokens": False},
        "published": {"preset": "published", "chunk_size": 16},
    },
    # Candidates for the write and read of the memory, beside what they have to beat.
    "search": {
        REFERENCE: LOCAL,
        "pointwise control": {"token_mixer": "pointwise"},
        "self-attention": {"token_mixer": "attention"},
        "memory": {},
        "memory, linear": LINEAR,
        **{name.replace("_", " "): {"token_mixer": name} for name in PROTOTYPES},
    },
    "fusion": {REFERENCE: LOCAL} | {kind: {"fusion": kind} for kind in ("gate", "add", "gate_add", "concat")},
    "placement": {REFERENCE: LOCAL} | {kind: {"global_placement": kind} for kind in ("per_stage", "per_layer")},
    "width": {REFERENCE: LOCAL} | {f"{k} x C1": {"memory_width": k} for k in (1, 2, 4)},
    "tokens": {REFERENCE: LOCAL}
    | {
        str(strides): {"token_strides": strides} for strides in ((1, 1, 1, 1), (2, 1, 1, 1), (4, 2, 1, 1), (8, 4, 2, 1))
    },
}


@dataclass(frozen=True)
class Budget:
    """What every cell is trained with.

    Attributes:
        epochs: Passes over the training images; 0 for the recipe's own.
        images: Training images, the same number of each class; 0 for all.
        seeds: Each trains every cell once.
        dims: Channels of the stages.
        depths: Blocks of the stages.
    """

    epochs: int
    images: int
    seeds: tuple[int, ...]
    dims: tuple[int, ...]
    depths: tuple[int, ...] = (2, 2, 6, 2)


BUDGETS = {
    "tiny": Budget(epochs=8, images=1_000, seeds=(0,), dims=(8, 16, 32, 64), depths=(1, 1, 1, 1)),
    "small": Budget(epochs=8, images=10_000, seeds=(0, 1, 2), dims=(24, 48, 96, 192)),
    "full": Budget(epochs=0, images=0, seeds=(0, 1, 2), dims=(40, 80, 160, 320)),
}


@dataclass(frozen=True)
class AblationConfig:
    """One table: everything that decides what comes out of it.

    Attributes:
        table: Name in `TABLES`.
        data: As for training. Held-out images of its own are left alone unless ``test`` is set.
        recipe: How every cell is trained.
        budget: How long, on how much, and how often.
        test: Judge by the data's own held-out images instead of a part of the training images: once, at the end.
        only: Cells to run; none for all. The reference is always run.
        workers: Processes that load images; None for as many as suit the machine.
        mosaic: Train on mosaics of the images instead of the images.
        scales: Also judge at these multiples of the recipe's size.
    """

    table: str
    data: str
    recipe: ClassificationRecipe
    budget: Budget
    test: bool = False
    only: tuple[str, ...] = ()
    workers: int | None = None
    mosaic: MosaicConfig | None = None
    scales: tuple[float, ...] = ()

    def cells(self) -> dict[str, BackboneConfig]:
        """Backbone of every cell, by name."""
        table = TABLES[choose(self.table, TABLES, "table")]
        names = [choose(name, table, "cell") for name in self.only] or list(table)
        base, stages = self.recipe.backbone, len(self.budget.dims)
        if self.mosaic is not None:  # the last stage is the one whose places are as large as a tile
            stages = min(stages, max(1, (self.mosaic.tile // base.patch_size).bit_length()))
        base = replace(base, dims=self.budget.dims[:stages], depths=self.budget.depths[:stages])
        found = {}
        for name in dict.fromkeys([REFERENCE, *names]):
            changes = dict(table[name])
            if "memory_width" in changes:
                changes["memory_width"] *= self.budget.dims[0]
            found[name] = replace(base, **changes)
        return found


def train_cells(config: AblationConfig, path: Path, console: Console, overwrite: bool = False) -> dict[str, Any]:
    """Train every cell and seed that is not in the results yet, and add each as soon as it is done.

    Several processes may do this at once with the same arguments: each takes what no other has taken.

    Args:
        config: Of the table.
        path: JSON file of the results. Runs that are not finished are in ``runs/`` beside it, and go on from there.
        console: For progress.
        overwrite: Remove the results that are there, and begin anew.

    Returns:
        ``settings`` and ``runs``: per run its cell, seed, last accuracy, and accuracy and loss of each epoch.

    Raises:
        FileExistsError: If the folder holds something else.
        BlockingIOError: If another process works on what is to be removed.
        ValueError: If ``path`` was begun with other settings, or for an unknown table or cell.
        FileNotFoundError: If the data is not there; before anything is trained.
        ImportError: If a cell needs a package that is missing; before anything is trained.
    """
    cells = config.cells()
    todo = [(seed, name) for seed in config.budget.seeds for name in cells]  # a table that is cut off can be read
    done = {"runs": []} if overwrite else _results(path, config)
    if not all(_has(done, name, seed) for seed, name in todo):
        _source(config, config.budget.seeds[0])  # data that is not there is better known before anything is told
    for backbone in cells.values():
        create_model("convneur_m1", **backbone.arguments())  # what cannot be made is better known now than in hours
    with OutputFolder(path.parent, "ablate", overwrite, path.stem, WAIT) as folder:
        if overwrite:
            folder.clear()
        folder.begin()
    folders = path.parent / "runs"
    folders.mkdir(parents=True, exist_ok=True)
    for number, (seed, name) in enumerate(todo, start=1):
        cell = folders / f"{config.table}-{''.join(c if c.isalnum() else '-' for c in name)}-{seed}"
        told = f"{number} of {len(todo)}: {name}, seed {seed}"
        try:
            with FileLock(f"{cell}.lock", timeout=0):  # given back whatever ends the process
                if not _has(_results(path, config), name, seed):
                    console.print(told)
                    run = _train(config, name, cells[name], seed, cell, console)
                    keep(config, path, run)
                _remove(cell)  # its numbers are kept
        except Timeout:
            console.print(f"{told} is being trained by another process")
    return _results(path, config)


def _remove(cell: Path) -> None:
    """Remove what the training of a cell wrote."""
    if cell.is_dir():
        with OutputFolder(cell, "train", overwrite=True) as folder:
            folder.clear()
        with suppress(OSError):  # somebody else's files are kept
            cell.rmdir()


def keep(config: AblationConfig, path: Path, run: dict[str, Any] | None = None, **facts: Any) -> dict[str, Any]:
    """Add a run, or other facts, to the results of all processes, and return them."""
    with FileLock(path.parent / "runs" / "results.lock"):
        results = _results(path, config)
        results["runs"] += [] if run is None else [run]
        results |= facts
        write_atomic(path, json.dumps(results, indent=1) + "\n")
    return results


def _has(results: dict[str, Any], name: str, seed: int) -> bool:
    return any((run["cell"], run["seed"]) == (name, seed) for run in results["runs"])


def _results(path: Path, config: AblationConfig) -> dict[str, Any]:
    """What is in the file, if it was begun with the same settings."""
    settings = json.loads(json.dumps(asdict(config)))
    for free in (settings, "only"), (settings, "workers"), (settings["budget"], "seeds"):
        del free[0][free[1]]  # more cells and seeds may be added later
    if not path.exists():
        return {"settings": settings, "runs": []}
    results = read_json(path, "remove it, or give another --out")
    if results.get("settings") != settings:
        raise ValueError(
            f"{path} was begun with other settings; give the same, add --overwrite to replace it, or give another --out"
        )
    return results


def _train(
    config: AblationConfig, name: str, backbone: BackboneConfig, seed: int, out: Path, console: Console
) -> dict[str, Any]:
    recipe = replace(config.recipe, backbone=backbone, epochs=config.budget.epochs or config.recipe.epochs)
    if config.mosaic is not None:
        return {"cell": name, "seed": seed} | _train_on_mosaics(config, recipe, name, seed, console)
    asked = TrainConfig(
        data=config.data,
        recipe=recipe,
        seed=seed,
        hold_out=not config.test,
        val_share=HOLD_OUT,
        train_images=config.budget.images,
        workers=config.workers,
    )
    trained = train_classifier(asked, out, (out / "run.json").exists(), console)
    if trained is None:  # only the first process of several gets here
        raise ValueError("an ablation runs in one process; leave --fit.devices at 1")
    return {
        "cell": name,
        "seed": seed,
        "classes": len(trained.source.classes),
        "train_images": len(trained.source.train),
        "val_images": len(trained.source.val),
        "by_size": _by_size(config, trained),
    } | _numbers(trained.curve)


def _by_size(config: AblationConfig, trained: Trained) -> dict[str, float]:
    """Accuracy at other sizes, by their pixels."""
    found, device = {}, device_for(config.recipe.fit.accelerator)
    for scale in config.scales:
        size = round(scale * trained.preprocessing.input_size[1])
        at = replace(trained.preprocessing, input_size=(3, size, size))
        loader = eval_loader(trained.source.val, at, config.recipe.batch_size, config.workers)
        found[str(size)] = evaluate(trained.model, loader, device).top1
    return found


def _train_on_mosaics(
    config: AblationConfig, recipe: ClassificationRecipe, name: str, seed: int, console: Console
) -> dict[str, Any]:
    assert config.mosaic is not None
    tiles = _tiles(config, seed, console)
    curve = train_on_mosaics(recipe, config.mosaic, tiles, seed, name, console)
    counts = {
        "classes": config.mosaic.answers,
        "train_images": len(tiles[0].labels),
        "val_images": len(tiles[1].labels),
    }
    by_distance = {key.removeprefix("accuracy_"): v for key, v in curve[-1].items() if key.startswith("accuracy_")}
    return counts | _numbers(curve) | {"by_distance": by_distance}


@lru_cache(maxsize=1)  # all cells of a seed have the same
def _tiles(config: AblationConfig, seed: int, console: Console) -> tuple[Tiles, Tiles]:
    assert config.mosaic is not None
    return cut(_source(config, seed), config.mosaic, console)


def _source(config: AblationConfig, seed: int) -> Source:
    source = open_source(config.data, seed=seed)
    if not config.test:
        source = hold_out(source, HOLD_OUT, seed)
    return fewer(source, config.budget.images, seed) if config.budget.images else source


def _numbers(curve: Curve) -> dict[str, Any]:
    """What is kept of a run: the last accuracy, and all that was logged once an epoch."""
    kept = {"curve": "accuracy", "loss": "loss", "val_loss": "val_loss"}
    return {"accuracy": curve[-1]["accuracy"]} | {
        key: [row[name] for row in curve] for key, name in kept.items() if name in curve[-1]
    }
