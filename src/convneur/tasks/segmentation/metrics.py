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


def require_counted(confusion: Tensor) -> None:
    """Refuse to judge by no pixels at all; a ValueError."""
    if not confusion.any():
        raise ValueError(
            "no pixel of the masks to judge by has a class: 255, and numbers or colours that are no class, count "
            "nowhere; mend the masks, or the list of classes"
        )


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

    A boundary pixel is right if there is one of the other side within `REACH` of the image's diagonal, in rows and in
    columns. Pixels that count nowhere belong to no boundary, nor does the border of the image.

    Args:
        answers: Classes (H, W).
        labels: Classes (H, W).
        classes: K.
    """
    height, width = labels.shape
    reach = max(1, round(REACH * (height**2 + width**2) ** 0.5))
    counted = labels != IGNORED
    scores = torch.full((classes,), float("nan"), dtype=torch.float64)
    occur = set(labels[counted].unique().tolist()) | set(answers[counted].unique().tolist())
    for number in occur:  # one at a time: of a large image all at once would take gigabytes
        truth, said = (_edge((each == number) & counted, counted) for each in (labels, answers))
        if not truth.any() and not said.any():
            continue  # it fills the image
        right = int((truth & _grown(said, reach)).sum()), int((said & _grown(truth, reach)).sum())
        recall, precision = (r / max(1, int(each.sum())) for r, each in zip(right, (truth, said), strict=True))
        scores[number] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return scores


def _edge(mask: Tensor, counted: Tensor) -> Tensor:
    """Pixels of a mask (H, W) above, below, left or right of one that counts and is not in it."""
    outside = (~mask & counted)[None, None].float()
    rows = F.max_pool2d(outside, (3, 1), 1, (1, 0))
    columns = F.max_pool2d(outside, (1, 3), 1, (0, 1))
    return mask & (torch.maximum(rows, columns)[0, 0] > 0)


def _grown(mask: Tensor, reach: int) -> Tensor:
    """A mask (H, W) and all that is within a square of ``reach`` to each side."""
    side = 2 * reach + 1
    rows = F.max_pool2d(mask[None, None].float(), (side, 1), 1, (reach, 0))
    return F.max_pool2d(rows, (1, side), 1, (0, reach))[0, 0] > 0
