"""What all tasks share: a model with parameter groups, AdamW, warm-up and cosine."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from convneur.engine import OptimConfig, cosine_with_warmup
from convneur.models import ConvNeur


class Task(pl.LightningModule):
    """A model and how it is optimised.

    Args:
        model: Trained in place.
        optim: Optimizer settings.
    """

    def __init__(self, model: ConvNeur, optim: OptimConfig) -> None:
        super().__init__()
        self.model = model
        self.optim = optim

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> what the model says of them."""
        return self.model(images)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW over the model's parameter groups."""
        groups = self.model.parameter_groups(self.optim.lr, self.optim.weight_decay, self.optim.global_lr_scale)
        optimizer = torch.optim.AdamW(groups, betas=self.optim.betas)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = cosine_with_warmup(optimizer, steps, self.optim.warmup)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
