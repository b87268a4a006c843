"""What a detector misses and what it makes up."""

import numpy as np
import pytest
import torch
from torch import nn

from convneur.data.objects import ObjectImages, Objects
from convneur.data.objects.loading import ObjectBatch
from convneur.tasks.detection.evaluation import evaluate_detector, find_mistakes


def objects(boxes, labels, crowd):
    count = len(labels)
    return Objects(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.int64),
        np.array(crowd, np.bool_),
        np.ones(count, np.float32),
        [None] * count,
    )


def found(boxes, labels, scores):
    return {
        "boxes": torch.tensor(boxes).float().reshape(-1, 4),
        "labels": torch.tensor(labels),
        "scores": torch.tensor(scores),
    }


TRUTH = objects(
    [[0, 0, 10, 10], [20, 0, 30, 10], [0, 20, 10, 30], [40, 40, 90, 90]], [0, 0, 1, 0], [False, False, False, True]
)


def test_missed_and_wrong():
    answers = found(
        [[0, 0, 10, 9], [1, 0, 10, 10], [20, 0, 30, 10], [0, 20, 10, 30], [50, 50, 60, 60], [0, 20, 10, 30]],
        [1, 1, 1, 1, 1, 2],
        [0.9, 0.8, 0.4, 0.7, 0.9, 0.5],
    )
    mistakes = find_mistakes(7, answers, TRUTH)
    # the second says again what the first said, the third is not sure, the fourth is of another class, the fifth is of
    # the crowd
    assert (mistakes.index, mistakes.missed, mistakes.wrong) == (7, [1], [1, 3])
    assert len(mistakes) == 3


def test_the_best_overlap_is_taken():
    truth = objects([[0, 0, 10, 10], [2, 0, 12, 10]], [0, 0], [False, False])
    mistakes = find_mistakes(0, found([[2, 0, 12, 10], [0, 0, 10, 10]], [1, 1], [0.9, 0.8]), truth)
    assert len(mistakes) == 0


def test_nothing_there_and_nothing_found():
    assert len(find_mistakes(0, found([], [], []), objects([], [], []))) == 0
    assert find_mistakes(0, found([], [], []), TRUTH).missed == [0, 1, 2]
    assert find_mistakes(0, found([[0, 0, 5, 5]], [1], [0.9]), objects([], [], [])).wrong == [0]


class FindsNothing(nn.Module):
    def __init__(self):
        super().__init__()
        self.transform = nn.Identity()

    def forward(self, images):
        return [found([], [], []) for _ in images]


def test_where_all_that_could_be_found_is_on_unreadable_images_there_is_no_score():
    images = ObjectImages(["a.png", "b.png"], [(8, 8), (96, 96)], [objects([], [], []), TRUTH], [1, 2])

    def evaluate(index):
        batch = ObjectBatch([torch.zeros(3, 8, 8)], [{}], torch.tensor([index]), [("other.png", "damaged")])
        return evaluate_detector(FindsNothing(), images, ["dog", "cat"], [1, 2], [batch], torch.device("cpu"))

    assert evaluate(1).boxes.ap == 0
    with pytest.raises(ValueError, match="none of the images to judge by that could be read has an object that counts"):
        evaluate(0)
