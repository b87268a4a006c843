"""A ConvNeur and its local-only baseline, trained alike: the experiment behind the demo and the mosaic benchmark."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from convneur.bench import count_cost, throughput
from convneur.data.digits import Digits, load_digits
from convneur.files import StrPath, write_atomic
from convneur.interrupts import stopped
from convneur.lab import demo_report
from convneur.lab.digit_batches import DigitBatches
from convneur.lab.digit_mosaics import PRIOR, Mosaics
from convneur.lab.tile_segmentation import TileSegmentation
from convneur.models import ConvNeur, create_model, save_model
from convneur.outputs import OutputFolder
from convneur.printing import Console, Table
from convneur.python_calls import python_call
from convneur.reports.page import versions
from convneur.tasks.classification.module import Classification
from convneur.training.fit import Curve, Interrupted, fit
from convneur_options.optim import OptimConfig

PREPROCESSING = {"mean": (0.0,), "std": (1.0,)}  # digits are ink 1 on paper 0, and are used as they are
BASELINES: dict[str, dict[str, Any]] = {"convneur": {}, "local-only": {"global_placement": "none"}}


@dataclass(frozen=True)
class DemoRecipe:
    """What both models are trained on and how.

    Attributes:
        task: ``digits``: name a handwritten digit. ``mosaic``: mark the tiles like the framed one.
        epochs: Evaluations; for mosaics an epoch is ``steps_per_epoch`` batches.
        batch_size: Images per step.
        seed: Of weights, data order and jitter.
        image_size: Pixels a side.
        steps_per_epoch: For mosaics, which are made endlessly.
        optim: Optimizer settings.
        model: Arguments of `create_model` for both.
    """

    task: Literal["digits", "mosaic"] = "digits"
    epochs: int = 25
    batch_size: int = 64
    seed: int = 0
    image_size: int = 32
    steps_per_epoch: int = 100
    optim: OptimConfig = field(default_factory=OptimConfig)
    model: dict[str, Any] = field(
        default_factory=lambda: {
            "in_chans": 1,
            "num_classes": 10,
            "dims": [16, 32, 64, 128],
            "depths": [1, 1, 2, 1],
            "patch_size": 2,
            "ls_init_value": 1.0,
        }
    )


DEMO = DemoRecipe()
MOSAIC = DemoRecipe(
    task="mosaic",
    epochs=6,
    batch_size=16,
    image_size=128,
    optim=OptimConfig(lr=1e-3, global_lr_scale=1.0, betas=(0.9, 0.95)),
    model={
        "in_chans": 1,
        "num_classes": 1,
        "global_pool": "",
        "dims": [24, 48, 96],
        "depths": [2, 2, 6],
        "ls_init_value": 1.0,
    },
)


@dataclass
class Trained:
    """One model of the pair and what came of it.

    Attributes:
        model: In eval mode, on the CPU.
        model_args: What it was created with.
        curve: Metrics after each epoch.
        confusion: For digits, (10, 10): rows are the truth, columns the answers.
        finished: Whether training ran to its end.
    """

    model: ConvNeur
    model_args: dict[str, Any]
    curve: Curve
    confusion: Tensor | None
    finished: bool


@dataclass(frozen=True)
class DemoResult:
    """What the demo showed.

    Attributes:
        folder: With metrics.json, report.html, and a model by each name.
        recipe: Of both models.
        rows: Per model its score, parameters, MACs and images per second.
    """

    folder: Path
    recipe: DemoRecipe
    rows: dict[str, dict[str, float]]

    def table(self) -> Table:
        """What a terminal shows."""
        return demo_report.table(self.recipe.task, self.rows)


@python_call()
def run_demo(
    task: Literal["digits", "mosaic"] = "digits",
    out: StrPath = "runs/demo",
    epochs: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    console: Console | None = None,
) -> DemoResult:
    """Train a small ConvNeur and its local-only baseline, compare them, and write a report with pictures.

    Args:
        task: ``digits``: name handwritten digits. ``mosaic``: mark every tile like the framed one.
        out: Folder for metrics.json, weights and report.html.
        epochs: Passes over the data, if not the task's own number.
        seed: Of weights, data order and jitter.
        overwrite: Replace what an earlier call with other settings wrote.
        console: For progress; standard error by default.

    Raises:
        AlreadyDone: If the folder holds what comes out, finished.
        FileExistsError: If it holds something else.
        KeyboardInterrupt: On Ctrl-C or SIGTERM; what is done is kept.
    """
    recipe, out = replace({"digits": DEMO, "mosaic": MOSAIC}[task], seed=seed), Path(out)
    if epochs is not None:
        if epochs < 1:
            raise ValueError(f"--epochs {epochs} is out of range; give at least 1")
        recipe = replace(recipe, epochs=epochs)
    with OutputFolder(out, "demo", overwrite) as folder:
        folder.check(asdict(recipe))
        folder.start()
        pair: dict[str, Trained] = {}
        try:
            for name, trained in train_pair(recipe, console):
                pair[name] = trained
                save_model(trained.model, out / name, trained.model_args)
                _keep(out, recipe, pair)
        except Interrupted as stop:
            line = f"stopped; what was done is in {out}, and the same command starts afresh"
            raise stopped(stop.number, line) from stop
        rows = _compare(recipe, pair)
        _keep(out, recipe, pair, rows)
        examples = held_out_batches(recipe, digits_for(recipe)[1])[0]
        demo_report.report(out / "report.html", recipe, pair, rows, examples)
        folder.finish()
    return DemoResult(out, recipe, rows)


def _keep(
    out: Path, recipe: DemoRecipe, pair: Mapping[str, Trained], rows: Mapping[str, Mapping[str, float]] | None = None
) -> None:
    """Write the numbers of what is done so far."""
    models = {
        name: {"finished": t.finished, "curve": t.curve, **((rows or {}).get(name, {}))} for name, t in pair.items()
    }
    kept = {"recipe": asdict(recipe), "versions": versions(), "models": models}
    write_atomic(out / "metrics.json", json.dumps(kept, indent=2) + "\n")


def _compare(recipe: DemoRecipe, pair: Mapping[str, Trained]) -> dict[str, dict[str, float]]:
    """Score, parameters, MACs and speed of each."""
    images = torch.rand(64, 1, recipe.image_size, recipe.image_size)
    speed = throughput({name: trained.model for name, trained in pair.items()}, images)
    rows, metric = {}, demo_report.METRIC[recipe.task]
    for name, trained in pair.items():
        cost = count_cost(partial(create_model, **trained.model_args), recipe.image_size)
        rows[name] = {
            metric: trained.curve[-1][metric],
            "params": cost.params,
            "macs": cost.macs,
            "images_per_second": speed[name],
        }
    return rows


def train_pair(recipe: DemoRecipe, console: Console | None = None) -> Iterator[tuple[str, Trained]]:
    """Train the ConvNeur, then its local-only baseline, on the same batches in the same order.

    Yields:
        Name and outcome of each as soon as it is there.

    Raises:
        Interrupted: On Ctrl-C or SIGTERM, after the outcome so far.
    """
    train, held_out = digits_for(recipe)
    for name, only in BASELINES.items():
        torch.manual_seed(recipe.seed)
        arguments = recipe.model | only
        model = create_model("convneur_m1", **arguments, pretrained_cfg_overlay=PREPROCESSING)
        task = _task(recipe, model)
        interrupted = None
        try:
            curve = fit(
                task,
                (
                    DataLoader(batches(recipe, train), batch_size=None),
                    DataLoader(held_out_batches(recipe, held_out), batch_size=None),
                ),
                recipe.epochs,
                recipe.batch_size,
                f"{name:10}",
                console,
            )
        except Interrupted as stop:
            curve, interrupted = stop.curve, stop
        counted = task.confusion if isinstance(task, Classification) else None
        confusion = counted.compute().cpu() if counted is not None and curve else None
        yield name, Trained(model.cpu().eval(), arguments, curve, confusion, interrupted is None)
        if interrupted is not None:
            raise interrupted


def digits_for(recipe: DemoRecipe) -> tuple[Digits, Digits]:
    """Digits to train on and held-out ones, of the size the recipe wants."""
    return load_digits(recipe.image_size if recipe.task == "digits" else 16)


def batches(recipe: DemoRecipe, digits: Digits) -> DigitBatches | Mosaics:
    """Training batches of one epoch."""
    if recipe.task == "digits":
        return DigitBatches(digits, recipe.batch_size, pixels=2.0, seed=recipe.seed)
    return Mosaics(digits, recipe.batch_size, recipe.image_size, recipe.steps_per_epoch, seed=recipe.seed)


def held_out_batches(recipe: DemoRecipe, digits: Digits) -> Any:
    """The same held-out batches at every evaluation."""
    if recipe.task == "digits":
        return list(zip(digits.images.split(120), digits.labels.split(120), strict=True))
    return list(Mosaics(digits, 32, recipe.image_size, batches=8, seed=1_000_003))


def _task(recipe: DemoRecipe, model: ConvNeur) -> Classification | TileSegmentation:
    if recipe.task == "digits":
        return Classification(model, recipe.optim, keep_confusion=True)
    return TileSegmentation(model, recipe.optim, prior=PRIOR)
