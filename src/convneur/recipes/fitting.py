"""A training run from its loop to the models that it keeps: the last epoch, and the best."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.callbacks import Callback
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from convneur.data.bad_samples import BadSamples
from convneur.engine.best import Best, KeepBest, best_path
from convneur.engine.checkpoints import last_checkpoint, load_checkpoint
from convneur.engine.fit import Curve, fit
from convneur.printing import Console
from convneur.recipes.runs import RunConfig


@dataclass(frozen=True)
class Kept:
    """A model that a run keeps.

    Attributes:
        folder: Name of its folder in that of the run.
        which: ``last`` or ``best``.
        epoch: That its weights are of, counted from 1.
        metric: By which the best epoch is chosen.
        model: In eval mode, on the CPU: the average of the weights if there is one.
    """

    folder: str
    which: Literal["last", "best"]
    epoch: int
    metric: str
    model: Any

    def words(self) -> str:
        """What its weights are."""
        by = f", the best by {self.metric}" if self.which == "best" else ", the last"
        return f"{self.folder}: weights of epoch {self.epoch}{by}"


@dataclass(frozen=True)
class Fitted:
    """What came out of the loop.

    Attributes:
        curve: Metrics after each epoch.
        unreadable: What could not be read.
        metric: By which the best epoch is chosen.
        best: The best epoch; None if none was evaluated.
        keep: What is asked for.
    """

    curve: Curve
    unreadable: BadSamples
    metric: str
    best: Best | None
    keep: Literal["last", "best"]

    def kept(self, out: Path, averaged: bool, create: Callable[[], Any]) -> list[Kept]:
        """What a run keeps: the model first, then what lies beside it; only the last if no epoch was evaluated.

        Args:
            out: Folder of the run.
            averaged: Whether the average of the weights is meant.
            create: Makes a model, whose weights are replaced.
        """

        def made(which: Literal["last", "best"], epoch: int, weights: Mapping[str, Tensor]) -> Kept:
            model = create()
            model.load_state_dict(weights)
            folder = "model" if which == self.keep or self.best is None else f"model-{which}"
            return Kept(folder, which, epoch, self.metric, model.eval())

        found = [made("last", int(self.curve[-1]["epoch"]), final_weights(out, averaged))]
        if self.best is not None:
            path = best_path(out, self.best)
            try:
                weights = load_file(path)
            except (OSError, SafetensorError) as error:
                raise ValueError(f"{path} is gone or damaged ({error}); train anew with another --out") from error
            found.append(made("best", self.best.epoch, weights))
        return sorted(found, key=lambda each: each.folder)


class RunIdentity(Callback):
    """Keeps in each checkpoint which run wrote it, and goes on from no other's."""

    def __init__(self, identity: str, out: Path) -> None:
        self.identity, self.out = identity, out

    def state_dict(self) -> dict[str, Any]:
        """Into the checkpoint."""
        return {"run": self.identity}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint; a ValueError if another run wrote it."""
        if state_dict.get("run") != self.identity:
            raise ValueError(
                f"the newest checkpoint in {self.out / 'checkpoints'} is of another run; remove it, or train anew "
                "with another --out"
            )


def fit_recipe(
    task: Any,
    data: Any,
    config: RunConfig,
    recipe: Any,
    out: Path,
    checkpoint: Path | None,
    console: Console,
    find_unused_parameters: bool,
    identity: str,
) -> Fitted:
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
        identity: Of the run, see `claim`.
    """
    unreadable = BadSamples(len(data.source.train) + len(data.source.val), config.max_unreadable)
    best = KeepBest(out, task.metric, weights_prefix(bool(recipe.ema)))
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
        [unreadable, best, RunIdentity(identity, out)],
        recipe.optim.clip_grad,
        find_unused_parameters,
    )
    return Fitted(curve, unreadable, task.metric, best.best, config.keep)


def final_weights(out: Path, averaged: bool) -> dict[str, Tensor]:
    """Weights of the last checkpoint: whole on one device, however training spread them.

    Args:
        out: Folder of the run.
        averaged: Whether the average of the weights is meant.

    Raises:
        DamagedError: If it is not as it was written.
    """
    kept = load_checkpoint(last_checkpoint(out / "checkpoints"))["state_dict"]
    prefix = weights_prefix(averaged)
    return {k.removeprefix(prefix): v for k, v in kept.items() if k.startswith(prefix)}


def weights_prefix(averaged: bool) -> str:
    """Of the weights to keep, or of their average, in the state dict of a task."""
    return "ema.module." if averaged else "model."
