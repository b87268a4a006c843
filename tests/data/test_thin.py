"""Thin images take no more memory than others, and those that are absurdly thin are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from convneur.data.decode import UnreadableImageError, decode_image
from convneur.data.transforms import Preprocessing, eval_transform, scale_to, train_transform
from convneur_options.augment import AugmentConfig
from tests.data import files

TO = Preprocessing((3, 32, 32), (0.5,) * 3, (0.5,) * 3, crop_pct=0.9)


@pytest.mark.parametrize("size", [(1, 1001), (65_535, 1), (65_535, 65)])
def test_absurdly_thin_images_are_refused(size):
    with pytest.raises(
        UnreadableImageError, match=f"{size[0]} x {size[1]} px is too thin; one side may be 1,000 times"
    ):
        decode_image(files.encoded(files.plain(size=size), "PNG"))


@pytest.mark.parametrize("size", [(4, 4000), (4000, 4), (1, 1000)])
@pytest.mark.parametrize("transform", [eval_transform(TO), train_transform(TO, AugmentConfig(crop="rkrr"))])
def test_no_more_than_the_middle_of_a_thin_image_is_resized(size, transform, monkeypatch):
    sizes = []
    resize = Image.Image.resize

    def watched(image, *arguments, **options):
        made = resize(image, *arguments, **options)
        sizes.append(made.size)
        return made

    monkeypatch.setattr(Image.Image, "resize", watched)
    assert transform(files.plain(size=size)).shape == (3, 32, 32)
    assert max(max(each) for each in sizes) <= 16 * 32 * 15  # a random view is enlarged, too


def test_the_middle_is_what_it_was():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 800, 3), dtype=np.uint8)
    for image in (Image.fromarray(pixels), Image.fromarray(pixels[:, :40])):
        whole = create_transform(TO.input_size, mean=TO.mean, std=TO.std, interpolation="bicubic", crop_pct=0.9)(image)
        torch.testing.assert_close(eval_transform(TO)(image), whole, atol=0.1, rtol=0)


def test_sides_of_a_scaled_image_are_bounded():
    assert scale_to(512, 256, 1024) == 2
    assert scale_to(512, 10, 5000) == 16 * 512 / 5000
