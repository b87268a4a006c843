"""What pictures of several packages share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from convneur.printing import shortened

LINE = 0.035  # height of a line of small print, as a part of the axis
REACH = 0.3  # its length


def drawable(name: str) -> str:
    """A name for figures: one short line, which no legend leaves out for its ``_``."""
    shown = shortened(name)
    return f" {shown}" if shown.startswith("_") else shown


def name_points(axis: Any, points: Iterable[tuple[str, float, float]]) -> None:
    """Write names beside points (name, x, y), moved down where one would stand on another.

    Args:
        axis: Of matplotlib; all that sets its limits must have been drawn.
        points: In the units of the data.
    """
    axis.get_xlim(), axis.get_ylim()  # or the limits would still be those of an empty axis
    to_axis = axis.transScale + axis.transLimits
    taken: list[tuple[float, float]] = []
    for name, x, y in sorted(points, key=lambda point: -point[2]):
        across, up = to_axis.transform((x, y))
        height = up + LINE / 2
        while any(abs(across - other) < REACH and abs(height - level) < LINE for other, level in taken):
            height -= LINE / 4
        taken.append((across, height))
        axis.annotate(name, (x, y), xytext=(across + 0.01, height), textcoords="axes fraction", fontsize=8, va="center")
