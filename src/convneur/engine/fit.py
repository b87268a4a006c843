"""Train a Lightning module with one live progress bar, and keep its curves."""

from __future__ import annotations

import logging
import signal
import time
import warnings
from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

Curve = list[dict[str, float]]


class Interrupted(KeyboardInterrupt):
    """Training was stopped by Ctrl-C; ``curve`` holds what was done."""

    def __init__(self, curve: Curve) -> None:
        super().__init__("training was stopped")
        self.curve = curve


class _Live(Callback):
    """Progress over all steps, and the metrics after each epoch."""

    def __init__(self, title: str, batch_size: int, console: Console) -> None:
        self.curve: Curve = []
        self.title, self.batch_size = title, batch_size
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
        )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = time.perf_counter()
        self.row = self.progress.add_task(self.title, total=trainer.estimated_stepping_batches, note="")
        self.progress.start()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        rate = trainer.global_step * self.batch_size / (time.perf_counter() - self.start)
        values = self.curve[-1] if self.curve else {}
        scores = [f"{k} {v:.3f}" for k, v in values.items() if k not in ("epoch", "step") and "loss" not in k]
        note = ", ".join([*scores, f"{rate:,.0f} images/s"])
        self.progress.update(self.row, completed=trainer.global_step, note=note)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        values = {k: float(v) for k, v in trainer.callback_metrics.items()}
        self.curve.append({"epoch": trainer.current_epoch + 1, "step": trainer.global_step, **values})


def fit(
    task: pl.LightningModule,
    train: Iterable[Any],
    held_out: Iterable[Any],
    epochs: int,
    batch_size: int,
    title: str,
    console: Console | None = None,
) -> Curve:
    """Train, evaluating after every epoch, on whatever accelerator there is.

    Args:
        task: Module with training and validation steps; what it logs makes the curves.
        train: Batches of one epoch; it must have a length.
        held_out: Batches to evaluate on.
        epochs: How many.
        batch_size: Of ``train``, to show images per second.
        title: Name on the progress bar.
        console: Where the bar is drawn; standard error by default.

    Returns:
        What was logged after each epoch, with ``epoch`` and ``step``.

    Raises:
        Interrupted: On Ctrl-C.
    """
    live = _Live(title, batch_size, console or Console(stderr=True))
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.ERROR)  # hardware found, tips, goodbye: not for every run
    handler = signal.getsignal(signal.SIGINT)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")  # tips on workers and loaders, and its own deprecations
        warnings.filterwarnings("ignore", ".*LeafSpec.*")
        trainer = pl.Trainer(
            accelerator="auto",
            devices=1,
            max_epochs=epochs,
            callbacks=[live],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        try:
            trainer.fit(task, train, held_out)
        except SystemExit as stop:  # how Lightning leaves after Ctrl-C
            if trainer.interrupted:
                raise Interrupted(live.curve) from stop
            raise
        finally:
            live.progress.stop()
            signal.signal(signal.SIGINT, handler)
    return live.curve
