"""What the numbers of boxes look like that a tool wrote in another form than the format's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

OUT = 0.1  # share of the image by which a box sticks out that is hardly meant
MANY = 0.25  # share of the boxes that do


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
