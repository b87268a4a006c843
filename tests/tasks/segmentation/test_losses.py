"""Losses against plain ones."""

import pytest
import torch
import torch.nn.functional as F

from convneur.data.semantic import IGNORED
from convneur.tasks.segmentation.losses import SegmentationLoss, balanced_weights, dice_loss


def batch():
    logits = torch.randn(2, 4, 6, 7, dtype=torch.float64)
    labels = torch.randint(0, 4, (2, 6, 7))
    labels[torch.rand(2, 6, 7) < 0.3] = IGNORED
    return logits.float().requires_grad_(), labels


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 3.0]])
def test_cross_entropy_is_torchs(weights):
    logits, labels = batch()
    ours = SegmentationLoss(weights)(logits, labels)
    theirs = F.cross_entropy(logits, labels, None if weights is None else torch.tensor(weights), ignore_index=IGNORED)
    torch.testing.assert_close(ours, theirs)
    (a,), (b,) = (torch.autograd.grad(each, logits, retain_graph=True) for each in (ours, theirs))
    torch.testing.assert_close(a, b)


def test_hard_pixels_only():
    logits, labels = batch()
    each = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")[labels != IGNORED]
    expected = each.sort(descending=True).values[: round(0.25 * len(each))].mean()
    torch.testing.assert_close(SegmentationLoss(hard=0.25)(logits, labels), expected)


def test_dice_by_hand():
    logits, labels = batch()
    said = logits.softmax(1)
    losses = []
    for number in range(4):
        counted, truth = labels != IGNORED, labels == number
        common = said[:, number][truth].sum()
        losses.append(1 - 2 * common / (said[:, number][counted].sum() + truth.sum()))
    torch.testing.assert_close(dice_loss(logits, labels), torch.stack(losses).mean())
    both = SegmentationLoss(dice=0.5)(logits, labels)
    torch.testing.assert_close(both, SegmentationLoss()(logits, labels) + 0.5 * dice_loss(logits, labels))


@pytest.mark.parametrize("loss", [SegmentationLoss(), SegmentationLoss([1.0] * 4, 0.5, 1.0)])
def test_a_batch_in_which_nothing_counts_teaches_nothing(loss):
    logits, labels = batch()
    value = loss(logits, torch.full_like(labels, IGNORED))
    value.backward()
    assert float(value.detach()) == 0
    assert not logits.grad.any()


def test_rare_classes_weigh_more():
    weights = balanced_weights([400, 100, 0, 25])
    assert sum(weights) / 4 == pytest.approx(1)
    assert weights[1] / weights[0] == pytest.approx(2)
    assert weights[2] == weights[3] == pytest.approx(4 * weights[0])
