"""Images in memory are pictures whatever holds them, or are refused in one line that says what to give."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from convneur.data.decode import UnreadableImageError
from convneur.data.pictures import as_picture, open_images

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
BYTES = torch.from_numpy(PIXELS).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (BYTES, 0),
        (BYTES.float().div(255).requires_grad_(), 0),
        (BYTES.double() / 255, 0),
        (BYTES.half() / 255, 0),
        (BYTES.bfloat16() / 255, 1),  # which has 8 bits, and a byte needs a few more
        ((BYTES.float() / 255).to_sparse(), 0),
        (BYTES.repeat(1, 1, 2)[:, :, ::2][:, :, :5], None),
        (PIXELS.astype(np.float16) / np.float16(255), 0),
        (PIXELS[::-1, ::-1][::-1, ::-1], 0),
        (np.asfortranarray(PIXELS), 0),
    ],
)
def test_numbers_of_any_width_and_layout_are_the_same_picture(image, error):
    seen = np.asarray(as_picture(image), int)
    if error is None:
        np.testing.assert_array_equal(seen, np.asarray(image.permute(1, 2, 0)))
    else:
        np.testing.assert_allclose(seen, PIXELS, atol=error)


@pytest.mark.parametrize("image", [PIXELS[..., 0], PIXELS[..., :1], BYTES[:1]], ids=["2-D", "array", "tensor"])
def test_grey_is_the_same_in_every_form(image):
    np.testing.assert_array_equal(as_picture(image), np.repeat(PIXELS[..., :1], 3, 2))


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (BYTES.to(torch.int64), "an image of int64 was given; give bytes"),
        (BYTES.to(torch.int8), "an image of int8 was given; give bytes"),
        (BYTES > 9, "an image of bool was given; give bytes"),
        (BYTES.to(torch.complex64), "an image of complex64 was given; give bytes"),
        (BYTES.to("meta"), "a tensor of torch.uint8 on meta has no pixels to be read"),
        (BYTES[None], r"a tensor of shape \(1, 3, 6, 9\) is no image; .* of a batch list"),
        (BYTES[0], r"a tensor of shape \(6, 9\) is no image; give \(3, H, W\)"),
        (BYTES[:, :0], "an image of no pixels was given"),
        (torch.full((3, 4, 4), torch.nan), "must be in 0 to 1, none of them NaN"),
        (np.full((4, 4, 3), -0.1, np.float16), "must be in 0 to 1"),
        (np.zeros((4, 4, 4), np.uint8), r"an array of shape \(4, 4, 4\) is no image; give \(H, W, 3\)"),
        (np.zeros((4, 4), object), "an image of object was given; give bytes"),
        (np.zeros((0, 4, 3), np.uint8), "an image of no pixels was given"),
        (Image.new("L", (0, 4)), "an image of no pixels was given"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(image, why):
    with pytest.raises(ValueError, match=why):
        as_picture(image)


@pytest.mark.parametrize(
    "make", [Image.fromarray, np.asarray, lambda pixels: torch.from_numpy(pixels).permute(2, 0, 1)]
)
def test_images_in_memory_may_be_as_large_as_those_in_files(make, tmp_path):
    file = tmp_path / "image.png"
    for shape, why in (((30, 40, 3), "40 x 30 px is more than the limit"), ((1, 1001, 3), "1001 x 1 px is too thin")):
        pixels = np.zeros(shape, np.uint8)
        Image.fromarray(pixels).save(file)
        opened = open_images([make(pixels), file], max_pixels=1100)
        for number in range(2):
            with pytest.raises(UnreadableImageError, match=why):
                opened.picture(number, 1100)
    assert open_images(make(PIXELS), max_pixels=54).picture(0, 54).size == (9, 6)


def test_a_size_is_looked_at_before_the_pixels_are():
    huge = np.broadcast_to(np.zeros(3, np.uint8), (11_000, 10_000, 3))
    with pytest.raises(UnreadableImageError, match="is more than the limit of 100 megapixels"):
        as_picture(huge)


def test_a_pillow_image_of_a_damaged_file_is_one_that_cannot_be_read():
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8)).save(buffer, "png")
    half = Image.open(io.BytesIO(buffer.getvalue()[:2000]))
    opened = open_images([half, PIXELS])
    with pytest.raises(UnreadableImageError, match="image 0 cannot be read"):
        opened.picture(0)
    assert opened.picture(1).size == (9, 6)
