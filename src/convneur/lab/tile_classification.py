"""One label per place of the image."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from convneur.models import ConvNeur
from convneur.tasks.base import IGNORE, Task
from convneur_options.optim import OptimConfig


class TileClassification(Task):
    """Cross-entropy over places; logs ``loss``, ``accuracy``, and ``accuracy_1``, ... of the groups of places.

    The model's map is averaged over each place if it is finer. Targets of -1 count nowhere.

    Args:
        model: Images -> logits (B, classes, h, w).
        optim: Optimizer settings.
        groups: (h, w) number of the group of each place, to see accuracy apart for each; below 1 for none.
        **task: Arguments of `Task`.
    """

    groups: Tensor

    def __init__(self, model: ConvNeur, optim: OptimConfig, groups: Tensor, **task: Any) -> None:
        super().__init__(model, optim, **task)
        self.register_buffer("groups", groups, persistent=False)
        kinds = [number for number in groups.unique().tolist() if number > 0]
        settings: dict[str, Any] = {"num_classes": model.num_classes, "average": "micro", "ignore_index": IGNORE}
        self.accuracy = MulticlassAccuracy(**settings)
        self.of_group: Any = nn.ModuleDict({str(number): MulticlassAccuracy(**settings) for number in kinds})

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> logits (B, classes, h, w), one per place."""
        rows, columns = self.groups.shape
        return F.adaptive_avg_pool2d(super().forward(images), (rows, columns))

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Loss of a batch of images (B, C, H, W) and targets (B, h, w)."""
        images, targets = batch
        loss = F.cross_entropy(self(images), targets, ignore_index=IGNORE)
        self.log_loss(loss, len(images))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Count what was labelled rightly."""
        images, targets = batch
        logits = self(images)
        self.accuracy.update(logits, targets)
        for number, metric in self.of_group.items():
            metric.update(logits, targets.masked_fill(self.groups != int(number), IGNORE))
        self.log("accuracy", self.accuracy, on_epoch=True, batch_size=len(images))
        for number, metric in self.of_group.items():
            self.log(f"accuracy_{number}", metric, on_epoch=True, batch_size=len(images))
