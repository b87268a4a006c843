"""Image files as the RGB picture a person sees, whatever they are stored as; what cannot be read says why."""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from convneur.files import regular_file

MAX_PIXELS = 100_000_000
MAX_SIDE = 65_535  # pixels, which is what a JPEG can have; Pillow and resizing need memory for each row
MAX_PIXEL_BYTES = 8  # of what is decoded at a time, over the pixels that an image may have: four channels of 16 bits
# Formats of images that people keep, by their names in Pillow, and how their files end. Containers that hold pictures
# larger than they say (ICO, ICNS, BLP, PSD), and what runs other programs (EPS), are none of them.
FORMATS = {
    "AVIF": (".avif",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jfif", ".jpeg", ".jpg"),  # and several in one file, as phones write them
    "JPEG2000": (".jp2",),
    "PNG": (".png",),
    "PPM": (".pgm", ".pnm", ".ppm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_STRIP = 1 << 22  # pixels that are converted at a time
MOST_SCANS = 200  # of a JPEG: each goes over all of the picture, and a few bytes are one
_SCAN = re.compile(rb"\xff\xda\0(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")  # how one begins
_BITS, _SAMPLES, _TILE_WIDTH, _TILE_LENGTH, _ROWS = 258, 277, 322, 323, 278  # tags of a TIFF


class UnreadableImageError(ValueError):
    """A file that is no image, is damaged, or is too large to be opened safely."""


def decode_image(source: Path | str | bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode one image to 8-bit RGB.

    The camera's rotation (EXIF) is applied; transparency is laid over white; grey, palette, CMYK and 16-bit images are
    converted, the latter by scaling, not by clipping. Of an animation the first frame is taken.

    Args:
        source: A file, or the bytes of one.
        max_pixels: Images of more pixels are refused before they are decompressed.

    Raises:
        UnreadableImageError: If it cannot be read; one line that says why.
    """
    with open_image(source, max_pixels) as image:
        return _as_seen(image)


@contextmanager
def open_image(source: Path | str | bytes, max_pixels: int = MAX_PIXELS) -> Iterator[ImageFile.ImageFile]:
    """An image of one of `FORMATS` that is not decoded yet, and may be: it is not too large.

    Args:
        source: A file, or the bytes of one.
        max_pixels: Images of more pixels are refused; those of a side above `MAX_SIDE`, too.

    Raises:
        UnreadableImageError: If it cannot be opened, or what is done with it fails; one line that says why.
    """
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else regular_file(source).open("rb") as file:
            image = _identify(file)
            _check_size(image, max_pixels)
            yield image
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError(_empty(source) or "not an image, or of a format that is not known") from error
    except (MemoryError, OverflowError) as error:
        raise UnreadableImageError("decoding it takes more memory than there is") from error
    except Exception as error:  # damaged files raise anything from SyntaxError to struct.error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImageError(reason) from error


def check_scans(image: ImageFile.ImageFile) -> None:
    """Refuse a JPEG whose decoding would take hours: a megabyte of scans goes over it tens of thousands of times."""
    file = image.fp
    if image.format not in ("JPEG", "MPO") or file is None:
        return
    place = file.tell()
    file.seek(0)
    rest, found = b"", 0
    while part := file.read(1 << 20):
        found += sum(1 for _ in _SCAN.finditer(rest + part))
        rest = (rest + part)[-4:]  # one byte less than what begins a scan
    file.seek(place)
    if found > MOST_SCANS:
        raise UnreadableImageError(f"it has {found:,} scans; a JPEG may have {MOST_SCANS}")


def image_format(path: Path) -> str:
    """Name of the format of an image file, of any size; an `UnreadableImageError` if it is none of `FORMATS`."""
    try:
        with regular_file(path).open("rb") as file:
            return str(_identify(file).format)
    except (UnidentifiedImageError, OSError) as error:
        raise UnreadableImageError(_empty(path) or "not an image, or of a format that is not known") from error


def _identify(file: IO[bytes]) -> ImageFile.ImageFile:
    """As `Image.open`, but without its limit of pixels: that is one for the process and all its threads, and ours may
    be larger."""
    Image.init()
    head = file.read(16)
    for name in FORMATS:
        if name not in Image.OPEN:  # AVIF is not in every Pillow
            continue
        factory, accept = Image.OPEN[name]
        accepted = accept is None or accept(head)
        if accepted and not isinstance(accepted, str):  # which would say that Pillow was built without it
            file.seek(0)
            try:
                return factory(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error) as error:
                raise UnidentifiedImageError from error
    raise UnidentifiedImageError


def _check_size(image: ImageFile.ImageFile, max_pixels: int) -> None:
    width, height = image.size
    if max(width, height) > MAX_SIDE:
        raise UnreadableImageError(f"{width} x {height} px is too long; a side may have {MAX_SIDE:,} px")
    if width * height > max_pixels:
        raise UnreadableImageError(f"{width} x {height} px is more than the limit of {max_pixels / 1e6:g} megapixels")
    if image.format == "TIFF" and (piece := _piece_bytes(image)) > MAX_PIXEL_BYTES * max_pixels:
        raise UnreadableImageError(f"its tiles or strips of {piece / 1e6:,.0f} MB are larger than the limit")


def _piece_bytes(image: ImageFile.ImageFile) -> int:
    """Bytes of a tile, or else a strip, of a TIFF, which is decoded as a whole however small the picture is."""
    tags = getattr(image, "tag_v2")  # noqa: B009  which only this kind of image has

    def number(tag: int, default: int) -> int:
        value = tags.get(tag, default)
        return max(map(int, value if isinstance(value, tuple) else (value,)), default=default)

    width, height = image.size
    rows = min(number(_ROWS, height), height)
    pixels = number(_TILE_WIDTH, width) * number(_TILE_LENGTH, rows)
    return math.ceil(pixels * number(_SAMPLES, 1) * number(_BITS, 1) / 8)


def _empty(source: Path | str | bytes) -> str | None:
    empty = not source if isinstance(source, bytes) else Path(source).stat().st_size == 0
    return "the file is empty" if empty else None


def _as_seen(image: ImageFile.ImageFile) -> Image.Image:
    """RGB; some rows at a time, or the steps on the way would take several times the memory of the image."""
    declared = image.size
    check_scans(image)
    image.load()
    if image.size != declared:
        raise UnreadableImageError(f"it says {declared[0]} x {declared[1]} px and has {image.width} x {image.height}")
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.convert("RGB")
    seen = Image.new("RGB", image.size)
    rows = max(1, _STRIP // image.width)
    strips = [(0, top, image.width, min(top + rows, image.height)) for top in range(0, image.height, rows)]
    extent = _extent(image, strips) if image.mode == "F" else (0.0, 0.0)
    for strip in strips:
        seen.paste(_convert(image.crop(strip), extent), strip)
    return seen


def _extent(image: Image.Image, strips: list[tuple[int, int, int, int]]) -> tuple[float, float]:
    """Least and largest value of an image of floats; NaN if there is none."""
    low = high = float("nan")
    for strip in strips:
        values = np.asarray(image.crop(strip)).ravel()
        low, high = np.fmin(low, np.fmin.reduce(values)), np.fmax(high, np.fmax.reduce(values))
    return float(low), float(high)


def _convert(image: Image.Image, extent: tuple[float, float]) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        # 65535 is white; Pillow's own conversion would clip everything above 255 to white.
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    elif image.mode == "F":
        low, high = extent
        scale = 255 / (high - low) if high > low else 0.0
        image = Image.fromarray(np.nan_to_num((np.asarray(image) - low) * scale).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image)
    return image.convert("RGB")
