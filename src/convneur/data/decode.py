"""Image files as the RGB picture a person sees, whatever they are stored as; what cannot be read says why."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 100_000_000
SUFFIXES = frozenset(
    (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".jp2", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")


def image_files(folder: Path | str) -> Iterator[str]:
    """Paths of the image files in a folder and the folders in it, by name; links are followed."""
    for place, _, files in sorted(os.walk(folder, followlinks=True)):
        yield from (str(Path(place) / file) for file in sorted(files) if Path(file).suffix.lower() in SUFFIXES)


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
    try:
        with unlimited_pixels(), Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.width * image.height > max_pixels:
                raise UnreadableImageError(
                    f"{image.width} x {image.height} px is more than the limit of {max_pixels / 1e6:g} megapixels"
                )
            return _as_seen(image)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError(_empty(source) or "not an image, or of a format that is not known") from error
    except Exception as error:  # damaged files raise anything from SyntaxError to struct.error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImageError(reason) from error


@contextmanager
def unlimited_pixels() -> Iterator[None]:
    """Put Pillow's own limit aside, which is looked at when a file is opened: ours may be larger, and says so.

    The limit is one for the process, so this is for one thread at a time, as loaders have.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _empty(source: Path | str | bytes) -> str | None:
    empty = not source if isinstance(source, bytes) else Path(source).stat().st_size == 0
    return "the file is empty" if empty else None


def _as_seen(image: Image.Image) -> Image.Image:
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode in _SIXTEEN_BIT:
        # 65535 is white; Pillow's own conversion would clip everything above 255 to white.
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    elif image.mode == "F":
        values = np.asarray(image)
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        scale = 255 / (high - low) if high > low else 0.0
        image = Image.fromarray(np.nan_to_num((values - low) * scale).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image)
    return image.convert("RGB")
