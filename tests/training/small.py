"""A training of two steps an epoch, whose checkpoints are a few kilobytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from convneur.printing import Console
from convneur.training.fit import Curve, fit
from convneur_options.fit import FitConfig


class Small(pl.LightningModule):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Linear(width, 2)

    def training_step(self, batch: tuple[Tensor]) -> Tensor:
        loss = self.model(batch[0]).square().mean()
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor]) -> None:
        self.log("val_loss", self.model(batch[0]).square().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters())


def run(
    folder: Path | None,
    epochs: int = 2,
    checkpoint: Path | None = None,
    callbacks: Sequence[Any] = (),
    width: int = 3,
) -> tuple[Curve, Small]:
    task = Small(width)
    batches = DataLoader(TensorDataset(torch.ones(4, width)), 2)
    where = FitConfig(accelerator="cpu")
    console = Console(file=io.StringIO())
    curve = fit(task, (batches, batches), epochs, 2, "small", console, where, folder, checkpoint, callbacks)
    return curve, task
