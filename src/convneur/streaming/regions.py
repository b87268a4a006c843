"""Parts of a map: where strips and tiles begin and end, and what a part of a map is of a token grid.

Shape letters: B batch, C channels, H W pixels of a map, h w of its token grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Span(NamedTuple):
    """Rows, or columns, ``start`` to ``stop`` (not included) of a map."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """How many."""
        return self.stop - self.start

    def scaled(self, factor: int) -> Span:
        """Those of a map that is ``factor`` times as large."""
        return Span(self.start * factor, self.stop * factor)

    def within(self, length: int) -> Span:
        """Those that a map of this length has."""
        return Span(min(max(self.start, 0), length), min(self.stop, length))

    def wider(self, halo: int, length: int) -> Span:
        """With ``halo`` more on each side, where the map has them."""
        return Span(self.start - halo, self.stop + halo).within(length)

    def inside(self, other: Span) -> slice:
        """Where it is in what holds ``other``."""
        return slice(self.start - other.start, self.stop - other.start)


class Region(NamedTuple):
    """Some rows and columns of a map."""

    rows: Span
    columns: Span

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.rows.length, self.columns.length

    def scaled(self, factor: int) -> Region:
        """That of a map that is ``factor`` times as large."""
        return Region(self.rows.scaled(factor), self.columns.scaled(factor))

    def within(self, size: tuple[int, int]) -> Region:
        """What a map of this height and width has of it."""
        return Region(self.rows.within(size[0]), self.columns.within(size[1]))

    def wider(self, halo: int, size: tuple[int, int]) -> Region:
        """With ``halo`` rows and columns more on each side, where the map has them."""
        return Region(self.rows.wider(halo, size[0]), self.columns.wider(halo, size[1]))

    def cut(self, x: Tensor, held: Region) -> Tensor:
        """This area of ``x`` (B, C, h, w), which holds the area ``held``."""
        return x[:, :, self.rows.inside(held.rows), self.columns.inside(held.columns)]


def spans(length: int, size: int) -> Iterator[Span]:
    """Spans of ``size`` that cover a length; the last may be shorter."""
    for start in range(0, length, size):
        yield Span(start, min(start + size, length))


class RegionUpsample:
    """Bilinear upsampling of a part of a token grid to a part of its map, as of all of it at once.

    Args:
        area: Of the map.
        size: H, W.
        grid: h, w.
        token_stride: Pixels of the map per token.
    """

    def __init__(self, area: Region, size: tuple[int, int], grid: tuple[int, int], token_stride: int) -> None:
        self.same = token_stride == 1
        self.whole_width = size[1] if area.columns == Span(0, size[1]) else None
        self.sides = [_between(*each) for each in zip(area, size, grid, strict=True)]
        self.needed = area if self.same else Region(*(side.needed for side in self.sides))

    def __call__(self, grid: Tensor) -> Tensor:
        """The area ``needed`` of the grid (B, C, h', w') -> the area of the map (B, C, H', W')."""
        if self.same:
            return grid
        rows, columns = self.sides
        if self.whole_width is not None:  # torch's own is quicker
            tall = rows.along(2, grid)
            return F.interpolate(tall, size=(tall.shape[2], self.whole_width), mode="bilinear", align_corners=False)
        return columns.along(2, rows.along(1, grid.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class _Side(NamedTuple):
    """Pixels along one side: each lies between two tokens of ``needed``, at a share of the way to the second."""

    needed: Span
    low: Tensor
    high: Tensor
    share: Tensor

    def along(self, dim: int, x: Tensor) -> Tensor:
        """Bring one dimension of ``x`` from tokens to pixels."""
        low, high = (x.index_select(dim, index.to(x.device)) for index in (self.low, self.high))
        return torch.lerp(low, high, self.share.to(x).view(-1, *[1] * (x.ndim - 1 - dim)))


def _between(span: Span, length: int, grid_length: int) -> _Side:
    # As torch with align_corners=False: both kinds of pixels are squares, and the map's centres lie in the grid.
    places = (torch.arange(span.start, span.stop, dtype=torch.float64) + 0.5) * (grid_length / length) - 0.5
    places = places.clamp(min=0)
    low = places.long().clamp(max=grid_length - 1)
    high = (low + 1).clamp(max=grid_length - 1)
    needed = Span(int(low[0]), int(high[-1]) + 1)
    return _Side(needed, low - needed.start, high - needed.start, places - low)
