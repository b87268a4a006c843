"""Train a segmentation model: its loss, and intersection over union on held-out images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convneur.data.loading import PADDING
from convneur.tasks.base import Task
from convneur.tasks.segmentation.inference import segment
from convneur.tasks.segmentation.losses import SegmentationLoss
from convneur.tasks.segmentation.metrics import SegmentationScores, confusion_of, require_counted
from convneur.tasks.segmentation.models import Segmenter, parameter_groups
from convneur_options.optim import OptimConfig
from convneur_options.segmentation import Inference


class Segmentation(Task):
    """Logs ``loss``, ``miou`` and ``pixel_accuracy``.

    Args:
        model: Of `create_segmenter`.
        optim: Optimizer settings.
        classes: How many.
        loss: What it is wrong about.
        inference: How it is asked about held-out images.
        **task: Arguments of `Task`.
    """

    metric = "miou"
    confusion: Tensor

    def __init__(
        self,
        model: Segmenter,
        optim: OptimConfig,
        classes: int,
        loss: SegmentationLoss,
        inference: Inference,
        **task: Any,
    ) -> None:
        super().__init__(model, optim, **task)
        self.classes, self.loss, self.inference = classes, loss, inference
        self.register_buffer("confusion", torch.zeros(classes, classes, dtype=torch.long), persistent=False)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Groups of the backbone and of the decoder."""
        optim, model = self.optim, self.model
        assert isinstance(model, Segmenter)
        return parameter_groups(model, lr, optim.weight_decay, optim.global_lr_scale, optim.layer_decay)

    def training_step(self, batch: Any) -> Tensor:
        """Loss of a batch."""
        loss: Tensor = self.loss(self.model(batch.images), batch.labels)
        self.log_loss(loss, len(batch.images))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Count afresh."""
        self.confusion.zero_()

    def validation_step(self, batch: Any) -> None:
        """Count the pixels of a batch."""
        for pixels, labels, index in zip(batch.images, batch.labels, batch.indices.tolist(), strict=True):
            if index != PADDING:
                answers = segment(self.best_model, pixels, self.inference, self.device)
                self.confusion += confusion_of(answers, labels.cpu(), self.classes).to(self.device)

    def on_validation_epoch_end(self) -> None:
        """Judge what all processes counted."""
        confusion = self.confusion
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(confusion)
        require_counted(confusion)
        scores = SegmentationScores.of(confusion.cpu())  # Apple's GPUs have no double precision
        self.log_dict({"miou": scores.miou, "pixel_accuracy": scores.pixel_accuracy}, on_epoch=True)
