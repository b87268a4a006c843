"""Judge a segmentation model on images with known classes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from convneur.data.loading import PADDING
from convneur.tasks.segmentation.inference import segment
from convneur.tasks.segmentation.metrics import SegmentationScores, boundary_scores, confusion_of, require_counted
from convneur_options.segmentation import Inference


@dataclass
class Evaluation:
    """Answers of a model, and what they are worth. Pairs that cannot be used are left out.

    Attributes:
        indices: Of the images that could be read.
        confusion: (classes, classes) pixels by truth and answer.
        scores: What follows from it.
        boundary: (classes,) F-score of the boundaries of each class, mean over the images that have it.
        by_image: Pixel accuracy of each image.
        seconds: Per image, with all that is asked of the model.
        unreadable: Files that could not be used, and why.
        unknown_labels: Masks with numbers or colours that are no class, and how many pixels have them.
    """

    indices: list[int]
    confusion: Tensor
    scores: SegmentationScores
    boundary: Tensor
    by_image: list[float]
    seconds: list[float]
    unreadable: dict[str, str] = field(default_factory=dict)
    unknown_labels: dict[str, int] = field(default_factory=dict)

    def worst(self, count: int) -> list[int]:
        """Places of the images with fewest right pixels, the worst first."""
        return sorted(range(len(self.indices)), key=lambda place: self.by_image[place])[:count]


def evaluate_segmenter(
    model: nn.Module, classes: int, batches: Iterable[Any], how: Inference, device: torch.device
) -> Evaluation:
    """Ask the model about every image, one at a time.

    Args:
        model: In eval mode; it is moved to the device.
        classes: How many.
        batches: Of `convneur.data.semantic.loading.EvalPixels`.
        how: How to ask.
        device: To compute on.

    Raises:
        ValueError: If no image could be used, or no pixel has a class.
    """
    model.to(device).eval()
    confusion = torch.zeros(classes, classes, dtype=torch.long)
    boundaries: list[Tensor] = []
    told = Evaluation([], confusion, SegmentationScores.of(confusion), torch.zeros(classes), [], [])
    for batch in batches:
        told.unreadable |= dict(batch.unreadable)
        told.unknown_labels |= dict(batch.unknown_labels)
        for pixels, labels, index in zip(batch.images, batch.labels, batch.indices.tolist(), strict=True):
            if index == PADDING:
                continue
            start = time.perf_counter()
            answers = segment(model, pixels, how, device)
            told.seconds.append(time.perf_counter() - start)
            own = confusion_of(answers, labels, classes)
            confusion += own
            boundaries.append(boundary_scores(answers, labels, classes))
            told.indices.append(index)
            told.by_image.append(float(own.diag().sum() / own.sum().clamp(min=1)))
    if not told.indices:
        raise ValueError("none of the images to judge by could be used; mend or replace them")
    require_counted(confusion)
    told.scores, told.boundary = SegmentationScores.of(confusion), torch.stack(boundaries).nanmean(0)
    return told
