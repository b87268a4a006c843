"""Judge a classifier on labelled images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_confusion_matrix

from convneur.devices import require_finite

BINS = 15


@dataclass
class Evaluation:
    """Answers of a model to N images, and what they are worth. Unreadable images are left out.

    Attributes:
        labels: (N,) the truth.
        answers: (N,) most probable classes.
        confidences: (N,) their probabilities.
        indices: (N,) of the images in their source.
        top1: Share of right answers.
        top5: Share with the truth among the five most probable classes (or all, if there are fewer).
        loss: Mean cross-entropy.
        calibration_error: Expected difference of confidence and accuracy, 15 bins (ECE; Guo et al. 2017).
        confusion: (classes, classes): rows are the truth, columns the answers.
        unreadable: Files that could not be read, and why.
    """

    labels: Tensor
    answers: Tensor
    confidences: Tensor
    indices: Tensor
    top1: float
    top5: float
    loss: float
    calibration_error: float
    confusion: Tensor
    unreadable: dict[str, str]

    def per_class(self) -> Tensor:
        """Share of each class that was named rightly (classes,); NaN where there is no image of it."""
        return self.confusion.diag() / self.confusion.sum(1)

    def worst_mistakes(self, count: int) -> Tensor:
        """Positions of the wrong answers that were given with most confidence, the worst first."""
        wrong = (self.answers != self.labels).nonzero().flatten()
        return wrong[self.confidences[wrong].argsort(descending=True, stable=True)][:count]

    def reliability(self) -> tuple[Tensor, Tensor, Tensor]:
        """Per bin of confidence: mean confidence, accuracy, and share of the images; NaN in empty bins."""
        bins = (self.confidences * BINS).long().clamp(max=BINS - 1)
        counts = torch.bincount(bins, minlength=BINS).float()
        right = (self.answers == self.labels).float()
        return (
            torch.bincount(bins, self.confidences, BINS) / counts,
            torch.bincount(bins, right, BINS) / counts,
            counts / counts.sum(),
        )


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Iterable[Any], device: torch.device) -> Evaluation:
    """Ask the model about every image.

    Args:
        model: In eval mode; images -> logits (B, classes).
        batches: Of `convneur.data.module.eval_loader`.
        device: To compute on; the model is moved there.

    Raises:
        ValueError: If no image can be read, or the model has diverged.
    """
    model.to(device)
    logits, labels, indices = [], [], []
    unreadable: dict[str, str] = {}
    for batch in batches:
        known = batch.labels >= 0
        unreadable |= dict(batch.unreadable)
        logits.append(model(batch.images.to(device)).float().cpu()[known])
        labels.append(batch.labels[known])
        indices.append(batch.indices[known])
    scores, truth = torch.cat(logits), torch.cat(labels)
    if not len(truth):
        raise ValueError(
            f"none of the images can be read; the first: {': '.join(next(iter(unreadable.items()), ('', '')))}"
        )
    require_finite(scores)
    classes = scores.shape[1]
    probabilities = scores.softmax(1)
    confidences, answers = probabilities.max(1)
    among = scores.topk(min(5, classes), 1).indices == truth[:, None]
    return Evaluation(
        labels=truth,
        answers=answers,
        confidences=confidences,
        indices=torch.cat(indices),
        top1=(answers == truth).float().mean().item(),
        top5=among.any(1).float().mean().item(),
        loss=F.cross_entropy(scores, truth).item(),
        calibration_error=multiclass_calibration_error(probabilities, truth, classes, n_bins=BINS).item(),
        confusion=multiclass_confusion_matrix(scores, truth, classes),
        unreadable=unreadable,
    )
