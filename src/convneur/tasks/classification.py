"""One label per image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from convneur.engine import OptimConfig
from convneur.models import ConvNeur
from convneur.tasks.base import Task


class Classification(Task):
    """Cross-entropy; logs ``loss``, ``val_loss`` and ``accuracy``, and keeps the last confusion matrix.

    Args:
        model: Images -> logits (B, classes).
        optim: Optimizer settings.
        label_smoothing: Share of a label spread over all classes.
    """

    def __init__(self, model: ConvNeur, optim: OptimConfig, label_smoothing: float = 0.0) -> None:
        super().__init__(model, optim)
        self.label_smoothing = label_smoothing
        self.accuracy = MulticlassAccuracy(model.num_classes, average="micro")
        self.confusion = MulticlassConfusionMatrix(model.num_classes)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Loss of a batch of images (B, C, H, W) and labels (B,)."""
        images, labels = batch
        loss = F.cross_entropy(self(images), labels, label_smoothing=self.label_smoothing)
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Count afresh."""
        self.confusion.reset()

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Count what a batch got right."""
        images, labels = batch
        logits = self(images)
        self.log("val_loss", F.cross_entropy(logits, labels), batch_size=len(labels))
        self.accuracy(logits, labels)
        self.confusion.update(logits, labels)
        self.log("accuracy", self.accuracy, batch_size=len(labels))
