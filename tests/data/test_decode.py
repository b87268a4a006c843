"""What a person sees is what the model gets; what cannot be read says why."""

import io

import numpy as np
import pytest
from PIL import Image

from convneur.data.decode import UnreadableImageError, decode_image
from tests.data import files


def pixels(data: bytes) -> np.ndarray:
    image = decode_image(data)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "YCbCr", "HSV", "P", "L", "1", "RGBA", "LA"])
def test_every_mode_is_what_a_person_sees(mode):
    """Through TIFF, PNG or JPEG, whichever holds the mode; the palette is exact, the rest is close."""
    grey = mode in ("L", "1", "LA")
    shown = Image.new("RGB", (24, 16), (255, 255, 255) if mode == "1" else (90, 90, 90) if grey else files.RED)
    stored = shown.convert("P", palette=Image.Palette.ADAPTIVE) if mode == "P" else shown.convert(mode)
    kind = {"CMYK": "JPEG", "YCbCr": "JPEG", "HSV": "TIFF"}.get(mode, "PNG")
    if mode == "HSV":
        stored = stored.convert("RGB")
    assert np.abs(pixels(files.encoded(stored, kind)) - np.asarray(shown)).max() <= 3


def test_sixteen_bits_are_scaled_not_clipped():
    assert pixels(files.sixteen_bit_png(65535)).min() == 255
    assert pixels(files.sixteen_bit_png(32768)).max() == pytest.approx(128, abs=1)
    assert pixels(files.sixteen_bit_png(256)).max() <= 1
    pytest.importorskip("zarr", reason="TIFF files need zarr, which needs Python 3.11")
    ramp = Image.fromarray(np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16))
    assert pixels(files.encoded(ramp, "TIFF")).max() == 255


def test_transparency_lies_over_white():
    seen = pixels(files.transparent_png())
    assert (seen[:, :12] == 255).all()
    assert (seen[:, 12:] == files.BLUE).all()
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([0, 0, 0] * 256)
    assert (pixels(files.encoded(palette, "PNG", transparency=0)) == 255).all()


def test_the_camera_is_turned_back():
    seen = pixels(files.rotated_jpeg())
    assert seen.shape == (24, 16, 3)
    assert np.abs(seen[2, 8] - files.BLUE).max() < 12
    assert np.abs(seen[20, 8] - files.RED).max() < 12


def test_first_frame_of_an_animation():
    frames = [files.plain(files.RED), files.plain(files.BLUE)]
    data = files.encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.abs(pixels(data) - files.RED).max() < 12


@pytest.mark.parametrize(
    ("name", "reason"),
    [("truncated.jpg", "truncated"), ("text.png", "not an image"), ("empty.jpg", "empty"), ("bomb.png", "megapixels")],
)
def test_what_cannot_be_read_says_why(name, reason, tmp_path):
    data = files.UNREADABLE[name]()
    (tmp_path / name).write_bytes(data)
    for source in (data, tmp_path / name):
        with pytest.raises(UnreadableImageError, match=reason) as caught:
            decode_image(source)
        assert "\n" not in str(caught.value)


def test_the_limit_of_pixels_is_ours_and_nothing_global_changes():
    before = Image.MAX_IMAGE_PIXELS
    data = files.encoded(files.plain(size=(40, 30)), "PNG")
    with pytest.raises(UnreadableImageError, match="40 x 30 px is more than the limit"):
        decode_image(data, max_pixels=1199)
    assert decode_image(data, max_pixels=1200).size == (40, 30)
    assert before == Image.MAX_IMAGE_PIXELS
    Image.open(io.BytesIO(data)).load()
