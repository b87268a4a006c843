"""Numbers of a segmentation, held against torchmetrics and against plain NumPy."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_jaccard_index,
)

from convneur.data.semantic import IGNORED
from convneur.tasks.segmentation.metrics import REACH, SegmentationScores, boundary_scores, confusion_of

CLASSES = 5


def masks(seed, never=()):
    draw = np.random.default_rng(seed)
    labels, answers = (draw.integers(0, CLASSES, (40, 60)) for _ in range(2))
    for number in never:
        labels[labels == number] = 0
        answers[answers == number] = 0
    labels[draw.random((40, 60)) < 0.2] = IGNORED
    return torch.from_numpy(answers), torch.from_numpy(labels)


@pytest.mark.parametrize("seed", range(5))
def test_exactly_numpy_and_torchmetrics(seed):
    answers, labels = masks(seed)
    confusion = confusion_of(answers, labels, CLASSES)
    by_hand = np.zeros((CLASSES, CLASSES), np.int64)
    for truth, said in zip(labels.flatten().tolist(), answers.flatten().tolist(), strict=True):
        if truth != IGNORED:
            by_hand[truth, said] += 1
    assert np.array_equal(confusion.numpy(), by_hand)
    theirs = multiclass_confusion_matrix(answers, labels, CLASSES, ignore_index=IGNORED)
    assert torch.equal(confusion, theirs)
    scores = SegmentationScores.of(confusion)
    iou = by_hand.diagonal() / (by_hand.sum(0) + by_hand.sum(1) - by_hand.diagonal())
    assert np.array_equal(scores.iou.numpy(), iou)
    assert scores.miou == pytest.approx(iou.mean(), rel=1e-15)  # sums in another order
    options = {"num_classes": CLASSES, "ignore_index": IGNORED}
    assert scores.miou == pytest.approx(float(multiclass_jaccard_index(answers, labels, **options)), abs=1e-6)
    assert scores.pixel_accuracy == by_hand.trace() / by_hand.sum()
    accuracy = float(multiclass_accuracy(answers, labels, average="macro", **options))
    assert scores.mean_accuracy == pytest.approx(accuracy, abs=1e-6)


def test_classes_that_do_not_occur_do_not_count():
    answers, labels = masks(0, never=(3,))
    scores = SegmentationScores.of(confusion_of(answers, labels, CLASSES))
    assert scores.iou.isnan().tolist() == [False, False, False, True, False]
    assert scores.miou == pytest.approx(float(scores.iou[[0, 1, 2, 4]].mean()))


def test_bytes_do_not_overflow():
    labels = torch.full((100, 100), 150, dtype=torch.uint8)
    confusion = confusion_of(labels, labels, 151)
    assert int(confusion[150, 150]) == 10_000


def square(top, left, side=20, size=(80, 100)):
    labels = torch.zeros(size, dtype=torch.uint8)
    labels[top : top + side, left : left + side] = 1
    return labels


def test_boundaries_may_be_off_by_so_much():
    truth = square(20, 30)
    reach = max(1, round(REACH * (80**2 + 100**2) ** 0.5))
    assert boundary_scores(truth, truth, 2).tolist() == [1, 1]
    assert float(boundary_scores(square(20, 30 + reach), truth, 2)[1]) == 1
    assert float(boundary_scores(square(20, 30 + reach + 3), truth, 2)[1]) < 0.9
    assert float(boundary_scores(square(55, 75), truth, 2)[1]) == 0


def test_boundaries_of_what_is_not_there_or_not_said():
    nothing, truth = torch.zeros(80, 100, dtype=torch.uint8), square(20, 30)
    assert boundary_scores(nothing, truth, 3)[1:].nan_to_num(-1).tolist() == [0, -1]
    assert boundary_scores(truth, nothing, 3)[1:].nan_to_num(-1).tolist() == [0, -1]


def test_pixels_that_count_nowhere_make_no_boundary():
    truth = square(20, 30)
    truth[15:45, 48:55] = IGNORED  # covers the right side of the square
    wider = square(20, 30)
    wider[20:40, 50:54] = 1
    assert float(boundary_scores(wider, truth, 2)[1]) == 1


def test_boundaries_by_brute_force():
    draw = np.random.default_rng(0)
    labels = np.kron(draw.integers(0, 3, (5, 6)), np.ones((8, 9), int))
    answers = np.roll(labels, (1, 2), (0, 1))
    labels[10:14, 20:30] = IGNORED
    height, width = labels.shape
    reach = max(1, round(REACH * (height**2 + width**2) ** 0.5))

    def edge(values, number):
        found = []
        for y in range(height):
            for x in range(width):
                if labels[y, x] == IGNORED or values[y, x] != number:
                    continue
                beside = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
                inside = [(a, b) for a, b in beside if 0 <= a < height and 0 <= b < width and labels[a, b] != IGNORED]
                if any(values[a, b] != number for a, b in inside):
                    found.append((y, x))
        return found

    def share(edges, others):
        near = [any(abs(y - a) <= reach and abs(x - b) <= reach for a, b in others) for y, x in edges]
        return sum(near) / max(1, len(edges))

    expected = []
    for number in range(3):
        truth, said = edge(labels, number), edge(answers, number)
        recall, precision = share(truth, said), share(said, truth)
        expected.append(2 * precision * recall / (precision + recall))
    got = boundary_scores(torch.from_numpy(answers), torch.from_numpy(labels), 3)
    assert got.tolist() == pytest.approx(expected)
    assert min(expected) < 1
