"""Ablations: every model of a table trained with the same budget and seeds, and measured side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from convneur.bench import count_cost, inference_step, seconds_in_turn, training_step
from convneur.data.module import eval_loader
from convneur.data.sources import Source, open_source
from convneur.data.subsets import fewer, hold_out
from convneur.devices import device_for
from convneur.files import StrPath, replace_file, write_atomic
from convneur.interrupts import stopped
from convneur.json_files import read_json
from convneur.lab.ablation_report import HEAD, Row, cells_of, markdown, mean_by, picture, rows_of
from convneur.lab.ablation_tables import REFERENCE, TABLES, Budget
from convneur.lab.photo_mosaics import Tiles
from convneur.lab.train_mosaics import cut, train_on_mosaics
from convneur.models import create_model
from convneur.models.registry_utils import choose
from convneur.outputs import OutputFolder
from convneur.printing import Console, Table, box, markdown_code
from convneur.python_calls import python_call
from convneur.reports.page import versions
from convneur.tasks.classification.evaluation import evaluate
from convneur.tasks.classification.spec import ClassificationSpec
from convneur.training.fit import Curve, Interrupted
from convneur.training.run import Trained, fit_model
from convneur.training.run_folder import run_folder
from convneur_options.backbone import BackboneConfig
from convneur_options.classification import ClassificationConfig, ClassificationRecipe
from convneur_options.mosaic import MosaicConfig

HOLD_OUT = 0.2  # share of the training images to judge by
WAIT = 10.0  # seconds for another ablation that begins in the same folder


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


@dataclass(frozen=True)
class AblationResult:
    """What came of a table.

    Attributes:
        table: Its name.
        json: The file of all numbers; the picture and the table in Markdown are beside it.
        rows: A row per model; none while the model that others are compared with is trained by another process, which
            will then measure and write.
    """

    table: str
    json: Path
    rows: Sequence[Row]

    def shown(self) -> Table:
        """What a terminal shows."""
        found = Table(*HEAD, title=f"Ablation: {self.table}", box=box.SIMPLE)
        for row in self.rows:
            found.add_row(*cells_of(row))
        return found


@python_call()
def run_ablation(
    config: AblationConfig,
    out: StrPath = "runs/ablation",
    overwrite: bool = False,
    console: Console | None = None,
    command: str = "run_ablation",
) -> AblationResult:
    """Train every model of a table, measure them side by side, and write ``TABLE.json``, ``.md`` and ``.png``.

    The same call goes on where it was stopped; what is finished is not run again.

    Args:
        config: Of the table.
        out: Folder. Several processes may be at work there at once.
        overwrite: Remove what was written for this table, and begin anew.
        console: For progress; standard error by default.
        command: What made it, for the table's first line.

    Raises:
        KeyboardInterrupt: On Ctrl-C or SIGTERM.
        ValueError: And others, as `train_cells`.
    """
    out, console = Path(out), console or Console(stderr=True)
    with OutputFolder(out, "ablate", overwrite, config.table, WAIT):
        pass  # what cannot be written to is better known now
    path = out / f"{config.table}.json"
    try:
        results = train_cells(config, path, console, overwrite)
    except Interrupted as stop:
        raise stopped(stop.number, "stopped; the same command goes on from here") from stop
    trained = {run["cell"] for run in results["runs"]}  # by this command or an earlier one
    if REFERENCE not in trained:
        return AblationResult(config.table, path, [])
    with console.status("Measuring"):
        costs = _costs(config, trained, results["runs"][0]["classes"])
    results = keep(config, path, costs=costs, versions=versions(), command=command)
    rows = rows_of(results["runs"], results["costs"])
    write_atomic(path.with_suffix(".md"), markdown(rows, _lead(config, results), mean_by("by_size", results["runs"])))
    with replace_file(path.with_suffix(".png")) as fresh:
        picture(rows, mean_by("by_distance", results["runs"])).savefig(fresh, dpi=130)
    return AblationResult(config.table, path, rows)


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
    fit = settings["recipe"]["fit"]
    for free in (settings, "only"), (settings, "workers"), (settings["budget"], "seeds"), (fit, "loggers"):
        del free[0][free[1]]  # more cells and seeds may be added later, and curves go elsewhere
    if not path.exists():
        return {"settings": settings, "runs": []}
    results = read_json(path, "remove it, or give another --out")
    begun = results.get("settings")
    if (
        isinstance(begun, dict)
        and isinstance(begun.get("recipe"), dict)
        and isinstance(begun["recipe"].get("fit"), dict)
    ):
        begun["recipe"]["fit"].pop("wandb", None)  # of earlier versions, in the place of loggers
    if begun != settings:
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
    asked = ClassificationConfig(
        data=config.data,
        seed=seed,
        hold_out=not config.test,
        val_share=HOLD_OUT,
        train_images=config.budget.images,
        workers=config.workers,
    )
    resume = (out / "run.json").exists()
    with run_folder(out, resume):
        trained = fit_model(ClassificationSpec(), asked, recipe, out, resume, False, console)
    if trained is None:  # only the first process of several gets here
        raise ValueError("an ablation runs in one process; leave --fit.devices at 1")
    return {
        "cell": name,
        "seed": seed,
        "classes": len(trained.source.classes),
        "train_images": len(trained.source.train),
        "val_images": len(trained.source.val),
        "by_size": _by_size(config, recipe, trained),
    } | _numbers(trained.summary.curve)


def _by_size(config: AblationConfig, recipe: ClassificationRecipe, trained: Trained) -> dict[str, float]:
    """Accuracy at other sizes, by their pixels."""
    found, device, classifier = {}, device_for(recipe.fit.accelerator), trained.predictors[0]
    for scale in config.scales:
        size = round(scale * (recipe.eval_size or recipe.image_size))
        at = classifier.preprocessing(size)
        loader = eval_loader(trained.source.val, at, config.recipe.batch_size, config.workers)
        found[str(size)] = evaluate(classifier.model, loader, device).top1
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


def _lead(config: AblationConfig, results: Mapping[str, Any]) -> str:
    """What was done, in a sentence."""
    run = results["runs"][0]
    what = "images of {classes} classes".format(**run)
    if config.mosaic is not None:
        what = "photographs in mosaics: {task}, {canvas} px, tiles of {tile} px, distance {distance}".format(
            **vars(config.mosaic)
        )
    return (
        f"{markdown_code(results['command'])}: {run['train_images']:,} training {what}, judged by "
        f"{run['val_images']:,}{' test images' if config.test else ' held out from the training images'}, "
        f"{len(run['curve'])} epochs. {', '.join(f'{key} {value}' for key, value in results['versions'].items())}."
    )


def _costs(
    config: AblationConfig, trained: set[str], classes: int, batch_size: int = 32
) -> dict[str, dict[str, float]]:
    """Parameters, MACs and relative times of the cells that were trained, on the device that the recipe trains on."""
    size, device = config.recipe.image_size, device_for(config.recipe.fit.accelerator)
    images = torch.randn(batch_size, 3, size, size, device=device)
    build = {
        name: partial(create_model, "convneur_m1", num_classes=classes, **backbone.arguments())
        for name, backbone in replace(config, only=()).cells().items()
        if name in trained
    }
    models = {name: make().to(device) for name, make in build.items()}
    # Training first, as it warms up what inference needs, too.
    training = seconds_in_turn({name: training_step(m, images) for name, m in models.items()}, device)
    inference = seconds_in_turn({name: inference_step(m, images) for name, m in models.items()}, device)
    costs = {}
    for name, make in build.items():
        cost = count_cost(make, size)
        costs[name] = {
            "params": cost.params,
            "macs": cost.macs,
            "inference": inference[name] / inference[REFERENCE],
            "training": training[name] / training[REFERENCE],
            "inference_seconds": inference[name],
            "training_seconds": training[name],
        }
    return costs
