"""What mosaics of photographs are made like; see `convneur.lab.photo_mosaics`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MosaicTask = Literal["like", "legend", "pair"]
LEGEND = 4  # entries of the legend, in the 2 x 2 tiles of the corner
SIZES = (64, 1024)  # smallest and largest picture


@dataclass(frozen=True)
class MosaicConfig:
    """What the pictures are.

    Attributes:
        task: ``like``, ``legend`` or ``pair``.
        canvas: Pixels a side of a picture, 64 to 1024.
        tile: Pixels a side of a tile.
        distance: In tiles, the larger of rows and columns. pair: how far the two are apart. like, legend: the nearest
            tile to the corner that counts.
        alike: class: tiles that belong together show photographs of one class, so the model must also learn what the
            classes look like. photo: they show the same photograph, mirrored or not, brighter or darker.
        classes: Of the data to use, the first so many; 0 for all.
    """

    task: MosaicTask = "legend"
    canvas: int = 64
    tile: int = 16
    distance: int = 1
    alike: Literal["class", "photo"] = "photo"
    classes: int = 0

    def __post_init__(self) -> None:
        if not SIZES[0] <= self.canvas <= SIZES[1]:
            raise ValueError(f"--mosaic.canvas {self.canvas} is out of range; give {SIZES[0]} to {SIZES[1]} pixels")
        if self.tile < 8 or self.canvas % self.tile:
            raise ValueError(
                f"--mosaic.tile {self.tile} does not divide a picture of {self.canvas} px into tiles of at least 8 px"
            )
        if self.distance < 1 or self.side <= self.nearest:
            raise ValueError(
                f"--mosaic.distance {self.distance} does not fit {self.side} x {self.side} tiles; give at least 1, "
                f"less than {self.side}, or a larger --mosaic.canvas"
            )

    @property
    def side(self) -> int:
        """Tiles a side."""
        return self.canvas // self.tile

    @property
    def nearest(self) -> int:
        """Distance of the nearest tile that counts; the legend itself is as wide as two tiles."""
        return max(self.distance, 2) if self.task == "legend" else self.distance

    @property
    def answers(self) -> int:
        """Number of possible answers."""
        return LEGEND if self.task == "legend" else 2
