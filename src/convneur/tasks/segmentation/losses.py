"""What a segmentation model is wrong about.

Shape letters: B batch, K classes, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convneur.data.semantic import IGNORED


class SegmentationLoss(nn.Module):
    """Cross-entropy, of hard pixels only if wanted, plus Dice.

    Args:
        class_weights: K, of cross-entropy; None for the same.
        hard: Share of the pixels that count, those that are most wrong (online hard example mining); 1 for all.
        dice: Weight of the Dice loss beside cross-entropy (Milletari et al., 3DV 2016, without their squares); 0 for
            none.
    """

    weights: Tensor | None

    def __init__(self, class_weights: Sequence[float] | None = None, hard: float = 1.0, dice: float = 0.0) -> None:
        super().__init__()
        self.hard, self.dice = hard, dice
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (B, K, H, W) and classes (B, H, W) -> a number; pixels of class `IGNORED` count nowhere.

        A batch in which none counts has the loss 0.
        """
        logits = logits.float()  # in half precision sums over pixels would overflow
        counted = labels != IGNORED
        each = F.cross_entropy(logits, labels, self.weights, ignore_index=IGNORED, reduction="none")[counted]
        if self.hard < 1 and len(each):
            each, chosen = each.topk(max(1, round(self.hard * len(each))))
        elif self.weights is not None:
            chosen = torch.arange(len(each), device=each.device)
        total = logits.sum() * 0  # keeps the graph where nothing counts
        if len(each):
            # As F.cross_entropy has it: a weighted mean.
            share = len(each) if self.weights is None else self.weights[labels[counted]][chosen].sum()
            total = total + each.sum() / share
        if self.dice:
            total = total + self.dice * dice_loss(logits, labels)
        return total


def dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """One minus the Dice coefficient, mean over the classes that occur in the batch; 0 if none does."""
    classes = logits.shape[1]
    counted = labels != IGNORED
    truth = labels[counted]
    said = logits.softmax(1).movedim(1, -1)[counted]  # (pixels, K)
    own = said.gather(1, truth[:, None])[:, 0]
    common = torch.zeros(classes, dtype=said.dtype, device=said.device).index_add(0, truth, own)
    sizes = torch.bincount(truth, minlength=classes)
    occurs = sizes > 0
    loss = 1 - 2 * common[occurs] / (said.sum(0) + sizes)[occurs]
    return loss.mean() if len(loss) else logits.sum() * 0


def balanced_weights(counts: Sequence[int]) -> list[float]:
    """Weights of classes from how many pixels each has: one over the root of its share, with a mean of 1.

    Classes without pixels get the weight of the rarest that has some.
    """
    numbers = torch.tensor(counts, dtype=torch.float64)
    least = numbers[numbers > 0].min() if (numbers > 0).any() else torch.tensor(1.0, dtype=torch.float64)
    weights = numbers.where(numbers > 0, least).rsqrt()
    balanced: list[float] = (weights / weights.mean()).tolist()
    return balanced
