"""Mosaics: one framed tile in the corner asks, and every tile of its class is to be marked.

The answer to each tile stands far away in the picture, so this task shows what carries global context and what does
not. Pictures are made on the fly and are the same for the same seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from convneur.data.digits import Digits

IGNORE = -1  # target of the framed tile itself
ALIKE = 0.2  # share of tiles drawn from the class of the framed one, beside those that are of it by chance
PRIOR = ALIKE + (1 - ALIKE) / 10  # share of tiles to be marked


class Mosaic(NamedTuple):
    """Pictures (B, 1, canvas, canvas) and per tile 1 (like the framed one), 0 or IGNORE, (B, tiles, tiles)."""

    images: Tensor
    targets: Tensor


class Mosaics(IterableDataset[Mosaic]):
    """Batches of mosaics of the given digits.

    Args:
        digits: Tiles to draw from, already of the size of a tile.
        batch_size: Pictures per batch.
        canvas: Pixels a side of a picture.
        batches: How many in one pass; the next pass goes on with new ones.
        seed: Of everything drawn.
    """

    def __init__(
        self,
        digits: Digits,
        batch_size: int,
        canvas: int = 128,
        batches: int = 100,
        seed: int = 0,
    ) -> None:
        self.tile = digits.images.shape[-1]
        if canvas % self.tile:
            raise ValueError(f"canvas={canvas} is no multiple of the tile of {self.tile} px")
        self.digits, self.batch_size, self.canvas, self.batches = digits, batch_size, canvas, batches
        self.generator = torch.Generator().manual_seed(seed)
        classes = int(digits.labels.max()) + 1
        self.of_class = [torch.nonzero(digits.labels == c).flatten() for c in range(classes)]

    def __iter__(self) -> Iterator[Mosaic]:
        for _ in range(self.batches):
            yield self._draw(self.generator)

    def __len__(self) -> int:
        return self.batches

    def _draw(self, generator: torch.Generator) -> Mosaic:
        B, side, S = self.batch_size, self.canvas // self.tile, self.tile
        total = len(self.digits.labels)
        chosen = torch.randint(total, (B, side * side), generator=generator)
        asked = self.digits.labels[chosen[:, 0]]
        alike = torch.rand(B, side * side, generator=generator) < ALIKE
        alike[:, 0] = False
        for b in range(B):
            pool, slots = self.of_class[int(asked[b])], alike[b].nonzero().flatten()
            chosen[b, slots] = pool[torch.randint(len(pool), (len(slots),), generator=generator)]
        targets = (self.digits.labels[chosen] == asked[:, None]).long()
        targets[:, 0] = IGNORE
        tiles = self.digits.images[chosen.flatten()]
        tiles[0 :: side * side] = framed(tiles[0 :: side * side])
        return Mosaic(side_by_side(tiles.view(B, side, side, 1, S, S)), targets.view(B, side, side))


def framed(tiles: Tensor, colour: Tensor | float = 1.0, thickness: int = 1) -> Tensor:
    """Tiles (..., C, S, S) with a frame of ``thickness`` pixels; ``colour`` is one value or (..., C, 1, 1)."""
    inside = torch.zeros(tiles.shape[-2:], dtype=torch.bool, device=tiles.device)
    inside[thickness:-thickness, thickness:-thickness] = True
    return torch.where(inside, tiles, torch.as_tensor(colour, dtype=tiles.dtype, device=tiles.device))


def side_by_side(tiles: Tensor) -> Tensor:
    """Tiles (B, rows, columns, C, S, S) as pictures (B, C, rows * S, columns * S)."""
    return tiles.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
