"""Mask files as a class for every pixel, and back as pictures.

Shape letters: H W pixels.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from convneur.data.decode import MAX_PIXELS, UnreadableImageError, check_scans, open_image

IGNORED = 255  # class of a pixel that counts nowhere
GOLDEN = 0.618034
MOST = 255  # classes, so that a byte holds them and `IGNORED`

ClassMap = npt.NDArray[np.uint8]


class MaskError(ValueError):
    """A mask that cannot be used; one line that says why."""


@dataclass(frozen=True)
class MaskEncoding:
    """How the files of a data set tell the class of a pixel.

    Attributes:
        classes: Names, in the order of their numbers.
        colours: (classes, 3), to draw with; and what stands in the files, if they are ``coloured``.
        coloured: Whether files have the colours rather than numbers.
        table: Class by number in the file, where it is not the number itself. What it sends to `IGNORED`, and 255,
            counts nowhere.
    """

    classes: Sequence[str]
    colours: npt.NDArray[np.uint8]
    coloured: bool = False
    table: Mapping[int, int] | None = None

    def decode(
        self, content: bytes, size: tuple[int, int] | None, strict: bool = False, max_pixels: int = MAX_PIXELS
    ) -> tuple[ClassMap, int]:
        """Read a mask.

        Args:
            content: Of the file.
            size: Height and width that it must have; None for any.
            strict: Refuse numbers or colours that are no class; otherwise their pixels count nowhere.
            max_pixels: Larger masks are refused.

        Returns:
            (H, W) classes, and how many pixels have a number or colour that is no class.

        Raises:
            MaskError: If it is no mask, of another size, or of another kind.
        """
        values = _values(content, self.coloured, max_pixels)
        if size is not None and values.shape[:2] != size:
            raise MaskError(
                f"the mask has {values.shape[1]} x {values.shape[0]} px and its image {size[1]} x {size[0]}, both "
                "turned as their files say; make them the same"
            )
        labels, unknown = self._labels(values)
        if strict and unknown.any():
            first = values[tuple(np.argwhere(unknown)[0])]
            what = f"colour {', '.join(map(str, first))}" if self.coloured else f"number {first}"
            raise MaskError(
                f"the {what} is no class ({int(unknown.sum())} pixels); add it to the classes, or leave --strict out"
            )
        return labels, int(unknown.sum())

    def _labels(self, values: npt.NDArray[np.int64]) -> tuple[ClassMap, npt.NDArray[np.bool_]]:
        if not self.coloured and self.table is None and len(self.classes) == 2 and set(np.unique(values)) == {0, 255}:
            raise MaskError(
                "the mask has 0 and 255, and 255 counts nowhere; save 0 and 1, or give classes.csv with 0,0,0 and "
                "255,255,255 as the colours of the two classes"
            )
        return self._of_colours(values) if self.coloured else self._of_numbers(values)

    def _of_numbers(self, values: npt.NDArray[np.int64]) -> tuple[ClassMap, npt.NDArray[np.bool_]]:
        known = self.table if self.table is not None else {number: number for number in range(len(self.classes))}
        lookup = np.full(65537, -1, np.int64)
        lookup[IGNORED] = IGNORED
        lookup[list(known)] = list(known.values())
        found = lookup[np.where((values >= 0) & (values < 65536), values, 65536)]
        return np.where(found < 0, IGNORED, found).astype(np.uint8), found < 0

    def _of_colours(self, values: npt.NDArray[np.int64]) -> tuple[ClassMap, npt.NDArray[np.bool_]]:
        packed = _packed(values)
        order = np.argsort(_packed(self.colours.astype(np.int64)))
        known = _packed(self.colours.astype(np.int64))[order]
        place = np.searchsorted(known, packed).clip(max=len(known) - 1)
        unknown = known[place] != packed
        return np.where(unknown, IGNORED, order[place]).astype(np.uint8), unknown

    def picture(self, labels: ClassMap) -> Image.Image:
        """Classes (H, W) as a picture with a palette: its numbers are the classes, and it looks like the colours."""
        image = Image.fromarray(labels, "P")
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(self.colours)] = self.colours
        image.putpalette(palette.tobytes())
        return image


def some_colours(count: int) -> npt.NDArray[np.uint8]:
    """Colours (count, 3) that differ, for classes that come without: hues a golden section apart, light and dark."""
    colours = [
        colorsys.hsv_to_rgb(number * GOLDEN % 1, (0.9, 0.55, 0.75)[number % 3], (1.0, 0.75)[number % 2])
        for number in range(count)
    ]
    return np.round(255 * np.array(colours)).astype(np.uint8)


def _packed(colours: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return (colours[..., 0] << 16) | (colours[..., 1] << 8) | colours[..., 2]


def _values(content: bytes, coloured: bool, max_pixels: int) -> npt.NDArray[np.int64]:
    """Numbers (H, W) or colours (H, W, 3) of a file."""
    try:
        with open_image(content, max_pixels) as image:
            check_scans(image)
            ImageOps.exif_transpose(image, in_place=True)
    except UnreadableImageError as error:
        raise MaskError(f"the mask cannot be read ({error})") from error
    if coloured:
        return np.asarray(image.convert("RGB")).astype(np.int64)
    if len(image.getbands()) > 1:
        raise MaskError(
            f"the mask has {len(image.getbands())} channels and the data no table of colours; save numbers in one "
            "channel, or give classes.csv with name,r,g,b"
        )
    values = np.asarray(image)
    if values.dtype.kind == "f" and not (np.isfinite(values) & (values == np.round(values))).all():
        raise MaskError("the mask has numbers that are not whole; save the numbers of the classes")
    if image.format == "PNG" and image.mode == "L" and content[24:25] in (b"\x02", b"\x04"):
        values = values // (85 if content[24] == 2 else 17)  # Pillow spreads them over a byte
    return values.astype(np.int64)
