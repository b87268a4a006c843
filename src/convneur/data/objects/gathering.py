"""From what a file says about an image to `Objects`; what cannot be used is left out by name, and boxes that a tool
wrote in another form than the format's are recognised."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from convneur.data.decode import MAX_SIDE, UnreadableImageError, open_image
from convneur.data.objects.annotations import Objects, Shape

NAMED = 3  # of what was left out for one reason; the others are counted
OUT = 0.1  # share of the image by which a box sticks out that is hardly meant
MANY = 0.25  # share of the boxes that do
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # EXIF: how the camera was held; on its side


@dataclass(frozen=True)
class Found:
    """One object as a file has it.

    Attributes:
        which: Where it stands, such as ``annotation 3``.
        box: Corners x0 y0 x1 y1 in pixels.
        label: Class, counted from 0.
        crowd: As in `Objects`.
        area: In pixels.
        shape: Its mask; None where only the box is known.
    """

    which: str
    box: Sequence[float]
    label: int
    crowd: bool
    area: float
    shape: Shape | None


class LeftOut:
    """What a reader left out, by reason.

    Args:
        place: File or folder that it reads, for the notes.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.found: dict[str, list[str]] = defaultdict(list)

    def add(self, reason: str, which: str) -> None:
        """Note one."""
        self.found[reason].append(which)

    def notes(self) -> list[str]:
        """A line for each reason."""
        return [f"{self.place}: {len(found)} {reason} ({listed(found)})" for reason, found in self.found.items()]


def listed(names: Sequence[str]) -> str:
    """The first names."""
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def gather(found: Sequence[Found], height: int, width: int, left_out: LeftOut) -> Objects:
    """Objects of an image of ``height`` x ``width`` px; boxes of no size and outside of it are left out."""
    kept = []
    for each in found:
        x0, y0, x1, y1 = each.box
        if x1 <= x0 or y1 <= y0:
            left_out.add("objects of no width or no height were left out", each.which)
        elif x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
            left_out.add("objects outside of their image were left out", each.which)
        else:
            kept.append(each)
    return Objects(
        np.array([each.box for each in kept], np.float32).reshape(-1, 4),
        np.array([each.label for each in kept], np.int64),
        np.array([each.crowd for each in kept], np.bool_),
        np.array([each.area for each in kept], np.float32),
        [each.shape for each in kept],
    )


def seen_size(path: Path) -> tuple[int, int]:
    """Height and width as the image is decoded later: turned as the camera was held. 0 and 0 if it cannot be read; then
    it is left out where it is decoded, and named."""
    try:
        with open_image(path, MAX_SIDE**2) as image:  # nothing is decoded here, and no limit of the user known
            width, height = image.size
            turned = image.getexif().get(ORIENTATION, 1) in TURNED
    except UnreadableImageError:
        return 0, 0
    return (width, height) if turned else (height, width)


def look_like_shares(numbers: Sequence[float]) -> bool:
    """Whether numbers that should be pixels are all within 0 to 1, and some are fractions."""
    return any(number % 1 for number in numbers) and max(map(abs, numbers)) <= 1


def look_like_corners(
    given: npt.NDArray[np.float64], read: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64]
) -> bool:
    """Whether boxes are x0 y0 x1 y1 where their format has a place and a size: all fit their images so, and many stick
    out of them as the format reads them.

    Args:
        given: (n, 4) numbers as they stand there.
        read: (n, 4) corners x0 y0 x1 y1, as the format has it.
        sizes: (n, 2) width and height of the image of each.
    """
    if not len(given):
        return False
    first, last = given[:, :2], given[:, 2:]
    fit = (first >= 0).all() and (last > first).all() and (last <= sizes * 1.01).all()
    beyond = (read[:, :2] < -OUT * sizes) | (read[:, 2:] > (1 + OUT) * sizes)
    return bool(fit and beyond.any(1).mean() >= MANY)
