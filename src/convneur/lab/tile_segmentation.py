"""One yes or no per place of the image."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import BinaryJaccardIndex

from convneur.models import ConvNeur
from convneur.tasks.base import IGNORE, Task
from convneur_options.optim import OptimConfig


class TileSegmentation(Task):
    """Binary cross-entropy over places; logs ``loss`` and ``iou``. Targets of -1 count nowhere.

    Args:
        model: Images -> logits (B, 1, h, w).
        optim: Optimizer settings.
        prior: Expected share of places to mark; the classifier starts there (RetinaNet, section 4.1), so that the
            first steps are not spent, and Adam's averages not filled, on learning it.
    """

    def __init__(self, model: ConvNeur, optim: OptimConfig, prior: float = 0.5) -> None:
        super().__init__(model, optim)
        bias = model.get_classifier().bias
        assert isinstance(bias, Tensor)
        torch.nn.init.constant_(bias, math.log(prior / (1 - prior)))
        self.iou = BinaryJaccardIndex(ignore_index=IGNORE)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Loss of a batch of images (B, C, H, W) and targets (B, h, w)."""
        images, targets = batch
        logits, known = self(images)[:, 0], targets != IGNORE
        loss = F.binary_cross_entropy_with_logits(logits[known], targets[known].float())
        self.log_loss(loss, len(images))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Count what was marked rightly, wrongly, and missed."""
        images, targets = batch
        self.iou(self(images)[:, 0], targets)
        self.log("iou", self.iou, batch_size=len(images))
