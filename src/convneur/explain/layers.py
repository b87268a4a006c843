"""Maps of an image, each with its colours and its place on it.

Shape letters: H W pixels of a map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LogNorm, Normalize
from torch import Tensor


@dataclass(frozen=True)
class Scale:
    """Which number has which colour.

    Attributes:
        low: Number at one end.
        high: Number at the other.
        colours: Name of matplotlib's colour map.
        decades: Whether colours follow the logarithm.
    """

    low: float
    high: float
    colours: str
    decades: bool = False

    @staticmethod
    def around_zero(values: Tensor) -> Scale:
        """Diverging, as far to one side as to the other; wide enough that rounding has no colour."""
        reach = max(float(values.abs().max()), 1e-4)
        return Scale(-reach, reach, "PuOr_r")

    @staticmethod
    def between(values: Tensor) -> Scale:
        """Sequential, from the least to the most of what is known."""
        known = values[~values.isnan()]
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        return Scale(low, high if high > low else low + 1e-4, "viridis")

    @property
    def norm(self) -> Any:
        """What brings numbers to [0, 1], as matplotlib wants it."""
        return (LogNorm if self.decades else Normalize)(self.low, self.high, clip=True)

    def paint(self, values: Tensor) -> np.ndarray:
        """(H, W) -> bytes (H, W, 4); NaN is transparent."""
        known = np.ma.masked_invalid(values.float().cpu().numpy())
        painted: np.ndarray = mpl.colormaps[self.colours](self.norm(known), bytes=True)
        return painted

    def ramp(self, steps: int = 16) -> list[str]:
        """Colours as ``#rrggbb``, from one end to the other."""
        shades = mpl.colormaps[self.colours](np.linspace(0, 1, steps), bytes=True)
        return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b, _ in shades]

    def ticks(self) -> list[tuple[float, str]]:
        """Numbers to write at the colours, ends and middle among them, and how they are written."""
        if self.decades:
            first, last = (round(math.log10(end)) for end in (self.low, self.high))
            return [(10.0**n, f"{10.0**n:g}") for n in range(first, last + 1)]
        numbers = [self.low + (self.high - self.low) * quarter / 4 for quarter in range(5)]
        return [(number, f"{number:.3g}") for number in numbers]


GATES = Scale(0.0, 1.0, "RdBu_r")  # one for all gates: what halves a feature has no colour
SHARE = Scale(0.0, 1.0, "magma")
SLOPES = Scale(1e-4, 1.0, "magma", decades=True)


@dataclass(frozen=True)
class Layer:
    """A map of an image.

    Attributes:
        key: Short name, for files.
        title: What it is.
        about: What it means, in a sentence.
        values: (H, W), NaN where there is nothing to tell.
        covered: Height and width, in pixels of the image from its top left corner, that the map covers.
        scale: Its colours.
    """

    key: str
    title: str
    about: str
    values: Tensor
    covered: tuple[int, int]
    scale: Scale

    @property
    def range(self) -> str:
        """Least, most and mean, in words."""
        known = self.values[~self.values.isnan()]
        if not len(known):
            return "nothing to tell"
        return f"{float(known.min()):.3g} to {float(known.max()):.3g}, mean {float(known.mean()):.3g}"
