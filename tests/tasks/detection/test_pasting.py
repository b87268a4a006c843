"""Masks get onto images as torchvision puts them there, and into run-length encodings as COCO's code does it."""

import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image

from convneur.data.objects.masks import _codec, decode_masks, encode_masks
from convneur.tasks.detection.mask_paste import PastingTransform, paste_masks
from tests.tasks.detection.builders import detector


def boxes_and_masks(count, height, width):
    corners = torch.rand(count, 2) * torch.tensor([width, height])
    boxes = torch.cat([corners, corners + torch.rand(count, 2) * 60], 1)
    boxes[:, 0::2].clamp_(0, width)
    boxes[:, 1::2].clamp_(0, height)
    boxes[0] = torch.tensor([0, 0, width, height])
    boxes[1] = torch.tensor([5, 5, 5, 5])  # of no size
    return boxes, torch.rand(count, 1, 28, 28)


@pytest.mark.parametrize("count", [0, 50])
def test_pasted_masks_are_torchvisions(count):
    boxes, masks = boxes_and_masks(50, 120, 170)
    boxes, masks = boxes[:count], masks[:count]
    assert torch.equal(paste_masks(masks, boxes, (120, 170)), paste_masks_in_image(masks, boxes, (120, 170)))


def test_gradients_go_through_as_they_do_in_torchvision():
    boxes, masks = boxes_and_masks(5, 60, 80)
    masks.requires_grad_()
    weight = torch.rand(5, 1, 60, 80)
    (ours,) = torch.autograd.grad((paste_masks(masks, boxes, (60, 80)) * weight).sum(), masks)
    (theirs,) = torch.autograd.grad((paste_masks_in_image(masks, boxes, (60, 80)) * weight).sum(), masks)
    torch.testing.assert_close(ours, theirs)


def test_codes_are_cocos():
    boxes, masks = boxes_and_masks(50, 120, 170)
    pixels = (paste_masks(masks, boxes, (120, 170))[:, 0] > 0.5).numpy()
    pixels = np.concatenate([pixels, np.zeros_like(pixels[:1]), np.ones_like(pixels[:1])])
    codes = encode_masks(pixels)
    expected = _codec().encode(np.asfortranarray(pixels.astype(np.uint8).transpose(1, 2, 0)))
    for ours, theirs in zip(codes, expected, strict=True):
        text = theirs["counts"]
        assert ours == {"size": [120, 170], "counts": text.decode() if isinstance(text, bytes) else text}
    assert np.array_equal(decode_masks(codes, 120, 170).astype(bool), pixels)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mask_rcnn", "cascade_mask_rcnn"])
def test_detectors_with_masks_paste_them_this_way(kind):
    """The whole detector says the same with torchvision's own transform."""
    model = detector(kind, box_score_thresh=0.0).eval()
    assert isinstance(model.transform, PastingTransform)
    images = [torch.rand(3, 90, 130), torch.rand(3, 110, 100)]
    with torch.inference_mode():
        ours = model(images)
        model.transform.__class__ = PastingTransform.__base__
        theirs = model(images)
    for a, b, image in zip(ours, theirs, images, strict=True):
        assert a["masks"].shape == (len(a["boxes"]), 1, *image.shape[1:])
        assert all(torch.equal(a[key], b[key]) for key in b)
