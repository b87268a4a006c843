"""What happens beside the training: the live bar, the curves, checkpoints, and stopping in good order."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from convneur.interrupts import Interrupts
from convneur.printing import (
    BarColumn,
    Console,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from convneur.training.checkpoints import save_checkpoint

Curve = list[dict[str, float]]
LOSSES = ("loss", "val_loss")
REFRESH = 0.5  # seconds between two looks at the loss
SHOWN = ("accuracy", "iou", "ap50", "mask_ap50", "miou")  # beside the bar


class Interrupted(Exception):  # noqa: N818  it is no error
    """Training was stopped by the signal of a number, or by another process; ``curve`` holds what was done."""

    def __init__(self, curve: Curve, number: int | None) -> None:
        super().__init__("training was stopped")
        self.curve, self.number = curve, number


class Live(Callback):
    """Progress over all steps, and the metrics after each epoch.

    Args:
        title: Name on the bar.
        batch_size: Images per batch of one process, to show images per second.
        console: Where the bar is drawn.
    """

    def __init__(self, title: str, batch_size: int, console: Console) -> None:
        self.curve: Curve = []
        self.shown = 0.0
        self.title, self.batch_size = title, batch_size
        self.waited, self.batches = 0.0, 0
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the bar."""
        if trainer.is_global_zero:
            steps = int(trainer.estimated_stepping_batches)
            self.row = self.progress.add_task(self.title, total=steps, completed=trainer.global_step, note="")
            self.progress.start()
        self.start = self.last = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the last evaluation, which Lightning would report again after an epoch without one."""
        trainer.callback_metrics.clear()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Count the time since the last batch as waiting for data."""
        self.waited += time.perf_counter() - self.last

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Move the bar."""
        self.last = time.perf_counter()
        self.batches += 1
        if not trainer.is_global_zero:
            return
        if self.last - self.shown < REFRESH:  # to look at the loss is to wait for a GPU
            self.progress.update(self.row, completed=trainer.global_step)
            return
        self.shown = self.last
        rate = self.batches * self.batch_size * trainer.world_size / (self.last - self.start)
        loss = trainer.callback_metrics.get("loss_step")
        now = [] if loss is None else [f"epoch {trainer.current_epoch + 1}: loss {float(loss):.3f}"]
        note = ", ".join([*now, *self._evaluated(), f"{rate:,.0f} images/s"])
        self.progress.update(self.row, completed=trainer.global_step, note=note)

    def _evaluated(self) -> list[str]:
        """Figures of the last epoch that was evaluated, and which that was."""
        for row in reversed(self.curve):
            scores = [f"{name} {value:.3f}" for name, value in row.items() if name in SHOWN]
            if scores:
                return [f"after epoch {row['epoch']}: {' '.join(scores)}"]
        return []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluation is neither training nor waiting for data."""
        self.last = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the metrics of the epoch."""
        values = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.endswith("_step")}
        elapsed = max(1e-9, time.perf_counter() - self.start)
        waited = {"waiting_for_data": self.waited / elapsed}
        self.curve.append({"epoch": trainer.current_epoch + 1, "step": trainer.global_step, **values, **waited})
        if trainer.is_global_zero:
            rate = self.batches * self.batch_size * trainer.world_size / elapsed
            loss = [f"loss {values['loss']:.3f}"] if "loss" in values else []
            note = ", ".join([f"epoch {trainer.current_epoch + 1}", *loss, *self._evaluated(), f"{rate:,.0f} images/s"])
            self.progress.update(self.row, completed=trainer.global_step, note=note)
        if trainer.is_global_zero and not self.progress.console.is_terminal:  # a log file gets a line an epoch
            told = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            told += f", {time.perf_counter() - self.start:,.0f} s"
            self.progress.console.print(
                f"{self.title.strip()} epoch {trainer.current_epoch + 1} of {trainer.max_epochs}: {told}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Curves go into the checkpoint."""
        return {"curve": self.curve}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Curves go on where the checkpoint was written."""
        self.curve = state_dict["curve"]


def require_finite(trainer: pl.Trainer) -> None:
    """Refuse to go on, and to save, when the weights or the last losses are no finite numbers any more.

    Raises:
        ValueError: If so; what was saved before stays.
    """
    # In fp16 a loss may leave the range once, and that step is passed over.
    names = () if trainer.precision == "16-mixed" else LOSSES
    losses = [trainer.callback_metrics[name] for name in names if name in trainer.callback_metrics]
    weights = [getattr(weight, "_local_tensor", weight) for weight in trainer.lightning_module.parameters()]
    if not all(bool(value.isfinite().all()) for value in (*losses, *weights)):
        raise ValueError(
            f"the training has diverged by step {trainer.global_step}; give a lower --optim.lr, or clip gradients with "
            "--optim.clip-grad 1"
        )


class FirstStep(Callback):
    """Refuses what is no finite number before anything is learned, by the name of what brought it in."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the weights that training begins with."""
        for name, weight in pl_module.named_parameters():
            if not bool(getattr(weight, "_local_tensor", weight).isfinite().all()):
                raise ValueError(
                    f"the weights to start from have numbers that are not finite (the first: {name}); give others with "
                    "--weights"
                )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Look at the images of the first batch."""
        images = getattr(batch, "images", batch[0] if isinstance(batch, (tuple, list)) else None)
        if trainer.global_step or images is None:
            return
        if not all(bool(image.isfinite().all()) for image in images):
            raise ValueError("the first images have numbers that are not finite; mend the files of --data")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the first loss, which no step of the optimizer has had a hand in."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if trainer.global_step > 1 or batch_idx or not isinstance(loss, torch.Tensor):
            return
        if trainer.precision != "16-mixed" and not bool(loss.isfinite().all()):
            raise ValueError(
                "the first loss is no finite number, before anything was learned: images and weights are finite, so it "
                "is the model, such as a memory whose steps are too long (--backbone.state, --backbone.anchor), or "
                "--fit.precision"
            )


class Survival(Callback):
    """Checkpoints after every epoch and every few minutes; Ctrl-C and SIGTERM end the run after one more.

    Between two optimizer steps nothing is half done, so that is when checkpoints are written and signals are heeded. A
    second Ctrl-C leaves at once.

    Args:
        folder: For checkpoints; None to write none.
        minutes: Between checkpoints within an epoch.
        live: Whose curve an interrupted run returns.
        interrupts: The signals; they are made to wait while training goes on.
    """

    SYNC_EVERY = 10  # steps after which several processes ask each other whether to stop or save

    def __init__(self, folder: Path | None, minutes: float, live: Live, interrupts: Interrupts) -> None:
        self.folder, self.seconds, self.live = folder, 60 * minutes, live
        self.interrupts = interrupts
        self.begun = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the signals, from Lightning too."""
        self.saved = time.monotonic()
        self.interrupts.take_over()
        self.interrupts.wait = self.begun = True

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the loader which epoch comes."""
        loader: Any = trainer.train_dataloader
        if hasattr(loader, "set_epoch"):
            loader.set_epoch(trainer.current_epoch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save, or stop, if it is time to."""
        loader: Any = trainer.train_dataloader
        if hasattr(loader, "done"):
            loader.done = batch_idx + 1
        last = batch_idx + 1 == trainer.num_training_batches
        if last or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # the end of an epoch saves for itself; half a step cannot be saved
        if trainer.world_size > 1 and trainer.global_step % self.SYNC_EVERY:
            return
        if self._any(trainer, self.interrupts.number is not None):
            self._save(trainer)
            raise Interrupted(self.live.curve, self.interrupts.number)
        if self._any(trainer, time.monotonic() - self.saved > self.seconds):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, and stop if asked to."""
        self._save(trainer)
        if self._any(trainer, self.interrupts.number is not None):
            raise Interrupted(self.live.curve, self.interrupts.number)

    @staticmethod
    def _any(trainer: pl.Trainer, wish: bool) -> bool:
        """Whether any process wishes it."""
        return trainer.strategy.reduce_boolean_decision(wish, all=False) if trainer.world_size > 1 else wish

    def _save(self, trainer: pl.Trainer) -> None:
        require_finite(trainer)
        if self.folder is not None:
            save_checkpoint(trainer, self.folder)
        self.saved = time.monotonic()
