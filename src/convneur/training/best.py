"""The weights of the best epoch: kept beside the checkpoints, in a file of their own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from convneur.files import replace_file
from convneur.training.checkpoints import checkpoints

FOLDER = "best"
NAME = f"step-{'[0-9]' * 9}.safetensors"


class Best(NamedTuple):
    """The best epoch of a run.

    Attributes:
        epoch: Counted from 1.
        step: Of the optimizer, at its end.
        value: Of the metric.
    """

    epoch: int
    step: int
    value: float


class KeepBest(Callback):
    """Writes the weights after each epoch that is better than all before, to ``best/step-STEP.safetensors``.

    The checkpoint of that epoch is written afterwards and says which file is the best, so that a run that goes on from
    it, or from the one before, finds what an uninterrupted one has. Of two epochs that are alike the earlier is kept.

    Args:
        run: Folder of the run; the weights are in ``best/`` beside the checkpoints.
        metric: Logged once an epoch; the larger the better.
        prefix: Of the weights to keep, in the state dict of the task.
    """

    def __init__(self, run: Path, metric: str, prefix: str) -> None:
        self.run, self.metric, self.prefix = run, metric, prefix
        self.best: Best | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove what a run that was killed wrote after its last checkpoint."""
        if trainer.is_global_zero:
            for path in (self.run / FOLDER).glob(NAME):
                if _step(path) > trainer.global_step:
                    path.unlink(missing_ok=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights if there was an evaluation, and it is the best so far."""
        value = float(trainer.callback_metrics.get(self.metric, math.nan))
        if not math.isfinite(value) or (self.best is not None and value <= self.best.value):
            return
        state = trainer.strategy.lightning_module_state_dict()  # all processes together: they may each have a part
        self.best = Best(trainer.current_epoch + 1, trainer.global_step, value)
        if trainer.is_global_zero:
            weights = {k.removeprefix(self.prefix): v for k, v in state.items() if k.startswith(self.prefix)}
            self._write(best_path(self.run, self.best), weights)

    def _write(self, path: Path, weights: dict[str, Tensor]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        oldest = min((_step(each) for each in checkpoints(self.run / "checkpoints")), default=-1)
        before = sorted(each for each in path.parent.glob(NAME) if _step(each) <= oldest)
        for each in before[:-1]:  # the last is the best for the oldest checkpoint that is still there
            each.unlink(missing_ok=True)
        try:
            with replace_file(path) as fresh:
                save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, fresh)
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(f"could not write the best weights to {path.parent}: {error}") from error

    def state_dict(self) -> dict[str, Any]:
        """Into the checkpoint."""
        return {"best": None if self.best is None else list(self.best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.best = None if state_dict["best"] is None else Best(*state_dict["best"])


def best_path(run: Path, best: Best) -> Path:
    """Where the weights of the best epoch are."""
    return run / FOLDER / f"step-{best.step:09d}.safetensors"


def _step(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])
