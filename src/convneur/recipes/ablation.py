"""Ablations: named tables of models that differ in one thing, every cell trained with the same budget and seeds."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from convneur.files import write_atomic
from convneur.models import create_model
from convneur.models.names import choose
from convneur.recipes.classification import BackboneConfig, ClassificationRecipe
from convneur.recipes.train import TrainConfig, train_classifier

REFERENCE = "local-only"
LOCAL: dict[str, Any] = {"global_placement": "none"}

# What a cell changes of the default model. Causal chunks are short: a small image has few tokens.
TABLES: dict[str, dict[str, dict[str, Any]]] = {
    "globalizer": {
        REFERENCE: LOCAL,
        "pointwise control": {"globalizer": "pointwise"},
        "memory, linear": {},
        "memory, mlp": {"state": "mlp"},
        "squeeze-excitation": {"globalizer": "se"},
        "CBAM": {"globalizer": "cbam"},
        "non-local": {"globalizer": "non_local"},
        "self-attention": {"globalizer": "attention"},
        "RWKV, bidirectional": {"globalizer": "rwkv"},
        "Titans": {"globalizer": "titans"},
    },
    "memory": {
        REFERENCE: LOCAL,
        "pointwise control": {"globalizer": "pointwise"},
        "linear, global": {},
        "linear, causal": {"read": "causal", "chunk_size": 16},
        "mlp, global": {"state": "mlp"},
        "mlp, causal": {"state": "mlp", "read": "causal", "chunk_size": 16},
        "linear, global, in order": {"chunk_size": 16, "anchor": "previous"},
        "linear, global, not centred": {"center_tokens": False},
        "published": {"preset": "published", "chunk_size": 16},
    },
    "fusion": {REFERENCE: LOCAL} | {kind: {"fusion": kind} for kind in ("gate", "add", "concat")},
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
    "tiny": Budget(epochs=10, images=1_000, seeds=(0,), dims=(8, 16, 32, 64), depths=(1, 1, 1, 1)),
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
    """

    table: str
    data: str
    recipe: ClassificationRecipe
    budget: Budget
    test: bool = False
    only: tuple[str, ...] = ()
    workers: int | None = None

    def cells(self) -> dict[str, BackboneConfig]:
        """Backbone of every cell, by name."""
        table = TABLES[choose(self.table, TABLES, "table")]
        names = [choose(name, table, "cell") for name in self.only] or list(table)
        base = replace(self.recipe.backbone, dims=self.budget.dims, depths=self.budget.depths)
        found = {}
        for name in dict.fromkeys([REFERENCE, *names]):
            changes = dict(table[name])
            if "memory_width" in changes:
                changes["memory_width"] *= self.budget.dims[0]
            found[name] = replace(base, **changes)
        return found


def train_cells(config: AblationConfig, path: Path, console: Console) -> dict[str, Any]:
    """Train every cell and seed that is not in the results yet, and add each as soon as it is done.

    Args:
        config: Of the table.
        path: JSON file of the results. Runs that are not finished are in ``runs/`` beside it, and go on from there.
        console: For progress.

    Returns:
        ``settings`` and ``runs``: per run its cell, seed, last accuracy, and accuracy and loss of each epoch.

    Raises:
        ValueError: If ``path`` was begun with other settings, or for an unknown table or cell.
        ImportError: If a cell needs a package that is missing; before anything is trained.
    """
    cells = config.cells()
    path.parent.mkdir(parents=True, exist_ok=True)
    results = _results(path, config)
    for backbone in cells.values():
        create_model("convneur_m1", **backbone.arguments())  # what cannot be made is better known now than in hours
    todo = [(seed, name) for seed in config.budget.seeds for name in cells]  # a table that is cut off can be read
    for number, (seed, name) in enumerate(todo, start=1):
        folder = path.parent / "runs" / f"{config.table}-{''.join(c if c.isalnum() else '-' for c in name)}-{seed}"
        if not any((run["cell"], run["seed"]) == (name, seed) for run in results["runs"]):
            console.print(f"{number} of {len(todo)}: {name}, seed {seed}", highlight=False, markup=False)
            results["runs"].append(_train(config, name, cells[name], seed, folder, console))
            write_atomic(path, json.dumps(results, indent=1) + "\n")
        shutil.rmtree(folder, ignore_errors=True)  # its numbers are kept
    return results


def _results(path: Path, config: AblationConfig) -> dict[str, Any]:
    """What is in the file, if it was begun with the same settings."""
    settings = json.loads(json.dumps(asdict(config)))
    for free in (settings, "only"), (settings, "workers"), (settings["budget"], "seeds"):
        del free[0][free[1]]  # more cells and seeds may be added later
    if not path.exists():
        return {"settings": settings, "runs": []}
    results: dict[str, Any] = json.loads(path.read_text())
    if results["settings"] != settings:
        raise ValueError(f"{path} was begun with other settings; give the same, or another --out")
    return results


def _train(
    config: AblationConfig, name: str, backbone: BackboneConfig, seed: int, out: Path, console: Console
) -> dict[str, Any]:
    recipe = replace(config.recipe, backbone=backbone, epochs=config.budget.epochs or config.recipe.epochs)
    asked = TrainConfig(
        data=config.data,
        recipe=recipe,
        seed=seed,
        hold_out=not config.test,
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
        "accuracy": trained.curve[-1]["accuracy"],
        "curve": [row["accuracy"] for row in trained.curve],
        "loss": [row["loss"] for row in trained.curve],
    }
