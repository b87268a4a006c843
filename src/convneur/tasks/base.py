"""What all tasks share: a model with parameter groups, AdamW, warm-up and cosine, an average of the weights."""

from __future__ import annotations

from typing import Any, ClassVar

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torchmetrics import MeanMetric

from convneur.training.optim import scheduler
from convneur_options.optim import OptimConfig

IGNORE = -1  # target of a place that counts nowhere
NAN = float("nan")  # a loss that is no number makes the mean of the epoch none; torchmetrics would leave it out


class Task(pl.LightningModule):
    """A model and how it is optimised.

    Random numbers of a step (dropped paths, mixed images) follow from the seed, the step and the process, so that a run
    that goes on from a checkpoint draws what an uninterrupted one draws.

    Args:
        model: Trained in place; with ``parameter_groups`` (see `ConvNeur.parameter_groups`), or the task has it.
        optim: Optimizer settings.
        ema: Decay of the average of the weights that is evaluated and kept; 0 for none.
        seed: Of what is drawn while training.
        images_per_step: Over all processes and accumulated batches, to scale the learning rate.
        steps: Of the optimizer, in the whole run; None to ask the trainer. A run that is to be resumed must give it:
            asking makes Lightning start its loader before it has read from the checkpoint where to start.
    """

    metric: ClassVar[str]  # logged once an epoch; the best one has the most of it

    def __init__(
        self,
        model: nn.Module,
        optim: OptimConfig,
        ema: float = 0.0,
        seed: int = 0,
        images_per_step: int = 0,
        steps: int | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.optim = optim
        self.seed = seed
        self.images_per_step = images_per_step
        self.steps = steps
        # The average follows closely at first (timm's warm-up), or short runs would keep their first weights for long.
        # It needs no gradients: DistributedDataParallel would wait for them.
        self.ema = ModelEmaV3(model, decay=ema, use_warmup=True).requires_grad_(False) if ema else None
        self.mean_loss = MeanMetric(nan_strategy=NAN)
        self.mean_loss.persistent(True)  # an epoch's mean survives a crash in the middle of it (that of one process)

    @property
    def best_model(self) -> nn.Module:
        """The model to evaluate and to keep: the average of the weights if there is one."""
        return self.model if self.ema is None else self.ema.module

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> what the model says of them."""
        return self.model(images) if self.training else self.best_model(images)

    def configure_model(self) -> None:
        """Shard the stages over the devices if the strategy asks for it (FSDP2)."""
        mesh = getattr(self, "_device_mesh", None)  # set by Lightning's ModelParallelStrategy alone
        if mesh is None:
            return
        from torch.distributed.fsdp import fully_shard

        models: list[Any] = [self.model] if self.ema is None else [self.model, self.ema.module]
        for model in models:
            for stage in model.stages:
                fully_shard(stage, mesh=mesh["data_parallel"])
            fully_shard(model, mesh=mesh["data_parallel"])

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """The model's groups for an optimizer, at this rate."""
        optim = self.optim
        model: Any = self.model
        groups: list[dict[str, Any]] = model.parameter_groups(
            lr, optim.weight_decay, optim.global_lr_scale, optim.layer_decay
        )
        return groups

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW over the model's parameter groups."""
        optim = self.optim
        groups = self.parameter_groups(optim.rate(self.images_per_step))
        # Lightning cannot clip gradients for a fused optimizer where it mixes precisions.
        optimizer = torch.optim.AdamW(groups, betas=optim.betas, fused=self.trainer.precision == "32-true")
        steps = int(self.trainer.estimated_stepping_batches) if self.steps is None else self.steps
        schedule = scheduler(optimizer, steps, optim)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Set the rates to the schedule's: in a run that goes on to more epochs, they are those of the old one."""
        schedule: Any = self.lr_schedulers()
        for group, lr, factor in zip(
            schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
        ):
            group["lr"] = lr * factor(schedule.last_epoch)

    def on_train_epoch_start(self) -> None:
        """Begin the mean of the epoch; not called where a run goes on in the middle of one."""
        self.mean_loss.reset()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Draw what follows from the step alone."""
        key = (self.seed, self.trainer.current_epoch, batch_idx, self.trainer.global_rank)
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])
        torch.manual_seed(seed)
        np.random.seed(seed)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then move the average of the weights; in one hook, so that no checkpoint falls in between."""
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update(self.model, step=self.trainer.global_step)

    def log_loss(self, loss: Tensor, count: int) -> None:
        """Count the loss of a batch for the mean of the epoch, and log it per step."""
        self.mean_loss.update(loss.detach(), count)
        self.log("loss", self.mean_loss, on_step=False, on_epoch=True)
        self.log("loss_step", loss.detach(), on_step=True, on_epoch=False, batch_size=count)
