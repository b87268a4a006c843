"""Rows of a map: where strips begin and end, and what a strip of a map is of a token grid.

Shape letters: B batch, C channels, H W pixels of a map, h w of its token grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Rows(NamedTuple):
    """Rows ``start`` to ``stop`` (not included) of a map."""

    start: int
    stop: int

    @property
    def height(self) -> int:
        """How many."""
        return self.stop - self.start

    def scaled(self, factor: int) -> Rows:
        """The rows of a map that is ``factor`` times as high."""
        return Rows(self.start * factor, self.stop * factor)

    def within(self, height: int) -> Rows:
        """Those that a map of this height has."""
        return Rows(min(max(self.start, 0), height), min(self.stop, height))

    def wider(self, halo: int, height: int) -> Rows:
        """With ``halo`` rows more on each side, where the map has them."""
        return Rows(self.start - halo, self.stop + halo).within(height)

    def cut(self, x: Tensor, held: Rows) -> Tensor:
        """These rows of ``x`` (B, C, h, W), which holds the rows ``held``."""
        return x[:, :, self.start - held.start : self.stop - held.start]


def strips(height: int, size: int) -> Iterator[Rows]:
    """Strips of ``size`` rows that cover a map; the last may be lower."""
    for start in range(0, height, size):
        yield Rows(start, min(start + size, height))


class GridRows:
    """Bilinear upsampling of some rows of a token grid to some rows of its map, as of all of them at once.

    Args:
        rows: Of the map.
        height: H.
        grid_height: h.
        width: W.
        token_stride: Pixels of the map per token.
    """

    def __init__(self, rows: Rows, height: int, grid_height: int, width: int, token_stride: int) -> None:
        self.width, self.same = width, token_stride == 1
        # As torch with align_corners=False: both kinds of pixels are squares, and the map's centres lie in the grid.
        places = (torch.arange(rows.start, rows.stop, dtype=torch.float64) + 0.5) * (grid_height / height) - 0.5
        places = places.clamp(min=0)
        low = places.long().clamp(max=grid_height - 1)
        high = (low + 1).clamp(max=grid_height - 1)
        self.needed = rows if self.same else Rows(int(low[0]), int(high[-1]) + 1)
        self.low, self.high = low - self.needed.start, high - self.needed.start
        self.share = places - low

    def __call__(self, grid: Tensor) -> Tensor:
        """Rows ``needed`` of the grid (B, C, rows, w) -> rows of the map (B, C, rows, W)."""
        if self.same:
            return grid
        low, high = (grid.index_select(2, index.to(grid.device)) for index in (self.low, self.high))
        tall = torch.lerp(low, high, self.share.to(grid)[:, None])
        return F.interpolate(tall, size=(tall.shape[2], self.width), mode="bilinear", align_corners=False)
