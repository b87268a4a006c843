"""Mosaics of photographs: a benchmark of global context, with the distance between related parts as its dial.

What a tile is to be called cannot be known from the tile, nor from its neighbours: it follows from tiles elsewhere in
the picture. Answers are balanced, so guessing gives 1/2 (like, pair) or one over the entries (legend), and a model that
sees no further than ``distance`` tiles can do no better than that.

* ``like``: the framed tile in the corner is a query. The picture has photographs of its class and of one other class,
  half of each; 1 for the tiles of the query's class, 0 for those of the other. Neighbours show which tiles belong
  together, but not which of the two groups is the query's.
* ``legend``: the corner holds one photograph of each of four classes, with a frame of another colour each. All other
  tiles are of these classes, and their answer is the entry of the legend. Which class has which entry is drawn anew for
  each picture, so it can be learned from the picture alone.
* ``pair``: two framed tiles, ``distance`` apart; 1 for both if they show the same class, 0 if not. All other tiles are
  of any class.

Pictures are made while they are used, and are the same for the same seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from convneur.data.decode import UnreadableImageError, decode_image
from convneur.data.formats.images import Images
from convneur.data.formats.parquet import read_in_any_order
from convneur.lab.digit_mosaics import IGNORE, Mosaic, framed, side_by_side
from convneur_options.mosaic import LEGEND, MosaicConfig

COLOURS = 255 * torch.tensor([[1, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.uint8)  # of their frames


class Tiles(NamedTuple):
    """Photographs (N, 3, S, S) in [0, 255] and their classes (N,), in the order of the classes."""

    images: Tensor
    labels: Tensor


def tiles_of(images: Images, size: int, classes: int = 0) -> Tiles:
    """Photographs of a source, as squares of ``size`` pixels; what cannot be read is left out.

    Args:
        images: Encoded, with labels.
        size: Pixels a side: the largest square in the middle, brought to that size.
        classes: How many classes to use, from the first on; 0 for all.

    Raises:
        ValueError: If a class has no photograph, or there are fewer than two.
    """
    labels = np.asarray(images.labels)
    count = classes or int(labels.max()) + 1
    pictures, kept = [], []
    read_in_any_order(images)
    for index in np.argsort(labels, kind="stable"):
        if labels[index] >= count:
            break
        try:
            picture = decode_image(images.read(int(index)))
        except (UnreadableImageError, OSError):
            continue
        short = min(picture.size)
        left, top = (picture.width - short) // 2, (picture.height - short) // 2
        box = (left, top, left + short, top + short)
        if picture.size != (size, size):
            picture = picture.resize((size, size), Image.Resampling.BICUBIC, box, reducing_gap=2.0)
        pictures.append(np.asarray(picture))
        kept.append(labels[index])
    empty = sorted(set(range(count)) - set(map(int, kept)))
    if empty or count < 2:
        raise ValueError(
            f"class {empty[0]} has no photograph that can be read; leave it out of the data"
            if empty
            else "a mosaic needs at least two classes; give other --data, or more --mosaic.classes"
        )
    return Tiles(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(), torch.tensor(np.stack(kept)))


class PhotoMosaics(IterableDataset[Mosaic]):
    """Batches of pictures (B, 3, canvas, canvas) and answers (B, side, side); `IGNORE` where nothing is asked.

    Pictures are normalised with ``mean`` and ``std``. A pass goes on where the last one ended.

    Args:
        tiles: To draw from; see `tiles_of`.
        config: What the pictures are.
        batch_size: Pictures per batch.
        batches: How many in one pass.
        seed: Of everything drawn.
        flip: Mirror each tile with a chance of one half.
        mean: Of the channels, of pixels in [0, 1].
        std: Likewise.

    Raises:
        ValueError: If there are too few classes, or the tiles have another size.
    """

    def __init__(
        self,
        tiles: Tiles,
        config: MosaicConfig,
        batch_size: int,
        batches: int,
        seed: int = 0,
        flip: bool = True,
        mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
        std: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ) -> None:
        self.counts = torch.bincount(tiles.labels)
        if len(self.counts) < config.answers:
            raise ValueError(
                f"--mosaic.task {config.task} needs {config.answers} classes, and there are {len(self.counts)}"
            )
        if tiles.images.shape[-1] != config.tile:
            raise ValueError(f"tiles of {tiles.images.shape[-1]} px do not fit; cut them to {config.tile} px")
        self.tiles, self.config, self.batch_size, self.batches, self.flip = tiles, config, batch_size, batches, flip
        self.first = self.counts.cumsum(0) - self.counts  # of each class
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in (mean, std))
        self.generator = torch.Generator().manual_seed(seed)
        self.distances = distances(config.side)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Mosaic]:
        for _ in range(self.batches):
            yield self.draw()

    def draw(self) -> Mosaic:
        """The next batch."""
        draw = {"like": self._like, "legend": self._legend, "pair": self._pair}[self.config.task]
        classes, targets, frames = draw()
        drawn = self._uniform(*classes.shape)
        if self.config.alike == "photo":  # one number per class and picture
            drawn = self._uniform(self.batch_size, len(self.counts)).gather(1, classes.flatten(1)).view_as(drawn)
        tiles = self.tiles.images[(drawn * self.counts[classes]).long() + self.first[classes]]
        if self.flip:
            mirrored = self._uniform(*classes.shape)[..., None, None, None] < 0.5
            tiles = torch.where(mirrored, tiles.flip(-1), tiles)
        if self.config.alike == "photo":
            light = 0.7 + 0.6 * self._uniform(*classes.shape)[..., None, None, None]
            tiles = (tiles * light).clamp(max=255).byte()  # bytes up to the end: a quarter of what would be moved
        asks = frames >= 0
        tiles[asks] = framed(tiles[asks], COLOURS[frames[asks]][..., None, None], max(1, self.config.tile // 16))
        return Mosaic((side_by_side(tiles) / 255 - self.mean) / self.std, targets)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator)

    def _drawn_classes(self, count: int) -> Tensor:
        """(B, count): different classes for each picture."""
        return self._uniform(self.batch_size, len(self.counts)).argsort(1)[:, :count]

    def _far(self, targets: Tensor) -> Tensor:
        return torch.where(self.distances >= self.config.distance, targets, IGNORE)

    def _like(self) -> tuple[Tensor, Tensor, Tensor]:
        """Class, answer and frame (-1: none) of each tile, each (B, side, side)."""
        side = self.config.side
        two = self._drawn_classes(2)
        alike = self._uniform(self.batch_size, side, side) < 0.5
        alike[:, 0, 0] = True
        classes = torch.where(alike, two[:, 0, None, None], two[:, 1, None, None])
        targets = self._far(alike.long())
        frames = torch.full_like(classes, -1)
        targets[:, 0, 0], frames[:, 0, 0] = IGNORE, 0
        return classes, targets, frames

    def _legend(self) -> tuple[Tensor, Tensor, Tensor]:
        side = self.config.side
        entries = (self._uniform(self.batch_size, side, side) * LEGEND).long()
        entries[:, :2, :2] = torch.arange(LEGEND).view(2, 2)
        classes = self._drawn_classes(LEGEND).gather(1, entries.flatten(1)).view_as(entries)
        targets, frames = self._far(entries), torch.full_like(entries, -1)
        targets[:, :2, :2], frames[:, :2, :2] = IGNORE, entries[:, :2, :2]
        return classes, targets, frames

    def _pair(self) -> tuple[Tensor, Tensor, Tensor]:
        side, B = self.config.side, self.batch_size
        classes = (self._uniform(B, side * side) * len(self.counts)).long()
        flat = torch.arange(side * side)
        apart = _apart(side) == self.config.distance  # (tiles, tiles)
        one, other = apart.nonzero()[(self._uniform(B) * int(apart.sum())).long()].unbind(1)
        same = self._uniform(B) < 0.5
        two = self._drawn_classes(2)
        classes.scatter_(1, one[:, None], two[:, :1])
        classes.scatter_(1, other[:, None], torch.where(same, two[:, 0], two[:, 1])[:, None])
        asked = (flat == one[:, None]) | (flat == other[:, None])
        targets = torch.where(asked, same[:, None].long(), IGNORE)
        frames = torch.where(asked, 0, -1)
        return classes.view(B, side, side), targets.view(B, side, side), frames.view(B, side, side)


def _apart(side: int) -> Tensor:
    """(side * side, side * side): distance of any two tiles."""
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    return (places[:, None] - places).abs().amax(-1)


def distances(side: int) -> Tensor:
    """(side, side): distance of each tile from the corner."""
    return _apart(side)[0].view(side, side)
