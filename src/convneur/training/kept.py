"""The models that a run keeps: the last epoch, and the best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.callbacks import Callback
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from convneur.printing import markdown_code
from convneur.training.best import Best, best_path
from convneur.training.checkpoints import last_checkpoint, load_checkpoint
from convneur.training.fit import Curve


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

    def card(self, name: str) -> str:
        """Model card of a model that has not been judged, or lies beside the one that was."""
        where = "The numbers in metrics.json and report.html are of model/."
        return f"# {markdown_code(name)}\n\n{self.words()}. {where}\n"


def epochs_line(kept: Sequence[Kept]) -> str:
    """Of which epochs the models of a run are."""
    return "; ".join(each.words() for each in kept)


def kept_models(
    out: Path,
    curve: Curve,
    metric: str,
    best: Best | None,
    keep: Literal["last", "best"],
    averaged: bool,
    create: Callable[[], Any],
) -> list[Kept]:
    """What a run keeps: the model first, then what lies beside it; only the last if no epoch was evaluated.

    Args:
        out: Folder of the run.
        curve: Metrics after each epoch.
        metric: By which the best epoch is chosen.
        best: The best epoch; None if none was evaluated.
        keep: Which of the two is the model.
        averaged: Whether the average of the weights is meant.
        create: Makes a model, whose weights are replaced.

    Raises:
        DamagedError: If the last checkpoint is not as it was written.
        ValueError: If the weights of the best epoch are gone or damaged.
    """

    def made(which: Literal["last", "best"], epoch: int, weights: Mapping[str, Tensor]) -> Kept:
        model = create()
        model.load_state_dict(weights)
        folder = "model" if which == keep or best is None else f"model-{which}"
        return Kept(folder, which, epoch, metric, model.eval())

    found = [made("last", int(curve[-1]["epoch"]), final_weights(out, averaged))]
    if best is not None:
        path = best_path(out, best)
        try:
            weights = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} is gone or damaged ({error}); train anew with another --out") from error
        found.append(made("best", best.epoch, weights))
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
