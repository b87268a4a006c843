"""One label per image."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.data import Mixup
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from convneur.models import ConvNeur
from convneur.tasks.backbone_utils import classifier_groups
from convneur.tasks.base import NAN, Task
from convneur_options.optim import OptimConfig


class Classification(Task):
    """Cross-entropy; logs ``loss``, ``val_loss``, ``accuracy`` and, where there are more than 5 classes, ``top5``.

    Held-out images with a label below 0 count nowhere.

    Args:
        model: Images -> logits (B, classes).
        optim: Optimizer settings.
        label_smoothing: Share of a label spread over all classes.
        mixup: Alpha of Mixup; 0 for none.
        cutmix: Alpha of CutMix; 0 for none.
        channels_last: Give images to the model in that memory format.
        keep_confusion: Keep the last confusion matrix of the held-out images.
        **task: Arguments of `Task`.
    """

    metric = "accuracy"

    def __init__(
        self,
        model: nn.Module,
        optim: OptimConfig,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        channels_last: bool = False,
        keep_confusion: bool = False,
        **task: Any,
    ) -> None:
        super().__init__(model, optim, **task)
        classes: int = model.num_classes  # type: ignore[assignment]
        self.label_smoothing = label_smoothing
        self.channels_last = channels_last
        self.mix = (
            Mixup(mixup, cutmix, label_smoothing=label_smoothing, num_classes=classes) if mixup or cutmix else None
        )
        self.accuracy = MulticlassAccuracy(classes, average="micro")
        self.top5 = MulticlassAccuracy(classes, average="micro", top_k=5) if classes > 5 else None
        self.confusion = MulticlassConfusionMatrix(classes) if keep_confusion else None
        self.val_loss = MeanMetric(nan_strategy=NAN)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Groups of a ConvNeur, or of any other model of timm."""
        if isinstance(self.model, ConvNeur):
            return super().parameter_groups(lr)
        return classifier_groups(self.model, lr, self.optim.weight_decay, self.optim.layer_decay)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> logits (B, classes)."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return super().forward(images)

    def training_step(self, batch: Any) -> Tensor:
        """Loss of a batch that begins with images (B, C, H, W) and labels (B,)."""
        images, labels = batch[:2]
        count = len(labels)
        if self.mix is not None:
            images, labels = self.mix(images, labels)
            loss = F.cross_entropy(self(images), labels)
        else:
            loss = F.cross_entropy(self(images), labels, label_smoothing=self.label_smoothing)
        self.log_loss(loss, count)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Count afresh."""
        if self.confusion is not None:
            self.confusion.reset()

    def validation_step(self, batch: Any) -> None:
        """Count what a batch got right."""
        images, labels = batch[:2]
        known = labels >= 0
        logits, labels = self(images)[known].float(), labels[known]
        if len(labels):
            self.val_loss.update(F.cross_entropy(logits, labels), len(labels))
            self.accuracy.update(logits, labels)
            if self.top5 is not None:
                self.top5.update(logits, labels)
            if self.confusion is not None:
                self.confusion.update(logits, labels)
        top5 = {"top5": self.top5} if self.top5 is not None else {}
        self.log_dict({"val_loss": self.val_loss, "accuracy": self.accuracy, **top5}, on_epoch=True)
