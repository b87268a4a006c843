"""Pictures with what was found."""

import numpy as np
import pytest
import torch
from PIL import Image

from convneur.tasks.detection.drawing import NAMED, colours, draw_objects

GREY = Image.new("RGB", (80, 60), (128, 128, 128))


def test_frames_and_masks_are_where_the_objects_are():
    masks = torch.zeros(1, 60, 80, dtype=torch.bool)
    masks[0, 20:30, 20:40] = True
    drawn = np.array(draw_objects(GREY, torch.tensor([[10.0, 10, 50, 40]]), ["x"] * 1, ["#ff0000"], masks)).astype(int)
    changed = (drawn != 128).any(-1)
    assert changed[20:30, 20:40].all()
    assert changed[10, 10:50].all()
    assert not changed[50:, :].any()
    assert (drawn[25, 30] == [179, 77, 77]).all()  # four tenths of the colour


def test_masks_that_overlap_are_both_seen():
    masks = torch.zeros(2, 60, 80, dtype=torch.bool)
    masks[0, 5:30, 5:30] = masks[1, 20:50, 20:50] = True
    boxes = torch.tensor([[5.0, 5, 30, 30], [20, 20, 50, 50]])
    drawn = np.array(draw_objects(GREY, boxes, ["", ""], ["#ff0000", "#0000ff"], masks)).astype(int)
    both = drawn[25, 25]
    assert both[0] > both[1]
    assert both[2] > both[1]


@pytest.mark.parametrize("count", [0, 1, NAMED, NAMED + 1])
def test_any_number_of_objects_at_any_place(count):
    boxes = torch.rand(count, 4) * 200 - 50  # some outside the picture, some with corners out of order
    drawn = draw_objects(GREY, boxes, ["$name_{x}"] * count, colours(list(range(1, count + 1)), 80), side=160)
    assert drawn.size == (160, 120)


def test_objects_of_a_single_class_are_told_apart():
    assert len(set(colours([1, 1, 1], 1))) == 3
    assert len(set(colours([1, 1, 2], 2))) == 2
