"""What a segmentation is worth.

Shape letters: K classes, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from convneur.data.semantic import IGNORED

REACH = 0.0075  # of an image's diagonal: how far a boundary may be off (Csurka et al., BMVC 2013)


def confusion_of(answers: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Pixels by truth and answer (K, K): rows are the truth. Pixels of class `IGNORED` count nowhere.

    Args:
        answers: Classes, of any shape.
        labels: Of the same shape.
        classes: K.
    """
    counted = labels != IGNORED
    pairs = labels[counted].long() * classes + answers[counted].long()
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


@dataclass(frozen=True)
class SegmentationScores:
    """Numbers that follow from a confusion matrix; all in 0 to 1, NaN where there is nothing.

    Attributes:
        miou: Mean over the classes that occur, in the truth or in the answers.
        iou: (K,) intersection over union of each class.
        pixel_accuracy: Share of the pixels that are right.
        mean_accuracy: Mean over the classes of the share of their pixels that is right.
    """

    miou: float
    iou: Tensor
    pixel_accuracy: float
    mean_accuracy: float

    @classmethod
    def of(cls, confusion: Tensor) -> SegmentationScores:
        """From pixels (K, K) by truth and answer."""
        confusion = confusion.double()
        right, truth, said = confusion.diag(), confusion.sum(1), confusion.sum(0)
        iou = right / (truth + said - right)
        return cls(float(iou.nanmean()), iou, float(right.sum() / confusion.sum()), float((right / truth).nanmean()))


def boundary_scores(answers: Tensor, labels: Tensor, classes: int) -> Tensor:
    """F-score of the boundaries of each class (K,), NaN for classes that are neither there nor said.

    A boundary pixel is right if there is one of the other side within `REACH` of the image's diagonal. Pixels that
    count nowhere belong to no boundary, nor does the border of the image.

    Args:
        answers: Classes (H, W).
        labels: Classes (H, W).
        classes: K.
    """
    height, width = labels.shape
    reach = max(1, round(REACH * (height**2 + width**2) ** 0.5))
    counted = labels != IGNORED
    numbers = torch.arange(classes, device=labels.device)[:, None, None]
    truth, said = ((each == numbers) & counted for each in (labels, answers))
    edges = [_edges(each, counted) for each in (truth, said)]
    near = [_grown(each, reach) for each in edges]
    found = [(edge & other).sum((1, 2)) / edge.sum((1, 2)) for edge, other in zip(edges, reversed(near), strict=True)]
    recall, precision = (each.double() for each in found)
    score = 2 * precision * recall / (precision + recall)
    # There and not said, or said and not there: nothing of it is right.
    some = [edge.any(2).any(1) for edge in edges]
    score = torch.where(some[0] & some[1] & (precision + recall == 0), 0.0, score)
    score = torch.where(some[0] ^ some[1], 0.0, score)
    return torch.where(some[0] | some[1], score, float("nan"))


def _edges(masks: Tensor, counted: Tensor) -> Tensor:
    """Pixels of masks (K, H, W) beside one that counts and is not in the mask."""
    outside = _grown(~masks & counted, 1, across=True)
    return masks & outside


def _grown(masks: Tensor, reach: int, across: bool = False) -> Tensor:
    """Masks (K, H, W) and all that is within ``reach`` of them; with ``across`` only left, right, above and below."""
    values = masks[None].float()
    if across:
        rows = F.max_pool2d(values, (2 * reach + 1, 1), 1, (reach, 0))
        columns = F.max_pool2d(values, (1, 2 * reach + 1), 1, (0, reach))
        return torch.maximum(rows, columns)[0] > 0
    return F.max_pool2d(values, 2 * reach + 1, 1, reach)[0] > 0
