"""A ConvNeur and its local-only baseline, trained alike: the experiment behind the demo and the mosaic benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from convneur.data.digits import Digits, load_digits
from convneur.engine.fit import Curve, Interrupted, fit
from convneur.lab.digit_batches import DigitBatches
from convneur.lab.digit_mosaics import PRIOR, Mosaics
from convneur.lab.tile_segmentation import TileSegmentation
from convneur.models import ConvNeur, create_model
from convneur.printing import Console
from convneur.tasks.classification import Classification
from convneur_options.optim import OptimConfig

PREPROCESSING = {"mean": (0.0,), "std": (1.0,)}  # digits are ink 1 on paper 0, and are used as they are
BASELINES: dict[str, dict[str, Any]] = {"convneur": {}, "local-only": {"global_placement": "none"}}


@dataclass(frozen=True)
class PairRecipe:
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


DEMO = PairRecipe()
MOSAIC = PairRecipe(
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


def train_pair(recipe: PairRecipe, console: Console | None = None) -> Iterator[tuple[str, Trained]]:
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


def digits_for(recipe: PairRecipe) -> tuple[Digits, Digits]:
    """Digits to train on and held-out ones, of the size the recipe wants."""
    return load_digits(recipe.image_size if recipe.task == "digits" else 16)


def batches(recipe: PairRecipe, digits: Digits) -> DigitBatches | Mosaics:
    """Training batches of one epoch."""
    if recipe.task == "digits":
        return DigitBatches(digits, recipe.batch_size, pixels=2.0, seed=recipe.seed)
    return Mosaics(digits, recipe.batch_size, recipe.image_size, recipe.steps_per_epoch, seed=recipe.seed)


def held_out_batches(recipe: PairRecipe, digits: Digits) -> Any:
    """The same held-out batches at every evaluation."""
    if recipe.task == "digits":
        return list(zip(digits.images.split(120), digits.labels.split(120), strict=True))
    return list(Mosaics(digits, 32, recipe.image_size, batches=8, seed=1_000_003))


def _task(recipe: PairRecipe, model: ConvNeur) -> Classification | TileSegmentation:
    if recipe.task == "digits":
        return Classification(model, recipe.optim, keep_confusion=True)
    return TileSegmentation(model, recipe.optim, prior=PRIOR)
