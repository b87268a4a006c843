"""Batches of scikit-learn's handwritten digits, varied as handwriting varies."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import IterableDataset

from convneur.data.digits import Digits


def jitter(images: Tensor, generator: torch.Generator, pixels: float, degrees: float = 10.0) -> Tensor:
    """Turn and shift each image (N, C, H, W) by a random amount, as handwriting varies.

    Args:
        images: Batch.
        generator: Source of the amounts.
        pixels: Largest shift.
        degrees: Largest turn.
    """
    count, size = images.shape[0], images.shape[-1]
    angle = (2 * torch.rand(count, generator=generator) - 1) * torch.pi * degrees / 180
    shift = (2 * torch.rand(count, 2, generator=generator) - 1) * 2 * pixels / size
    rows = torch.stack([angle.cos(), -angle.sin(), shift[:, 0], angle.sin(), angle.cos(), shift[:, 1]], 1)
    grid = F.affine_grid(rows.view(count, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


class DigitBatches(IterableDataset[tuple[Tensor, Tensor]]):
    """Shuffled, jittered batches of images and labels; each pass is an epoch of its own, the same for the same seed.

    Args:
        digits: To draw from.
        batch_size: Images per batch; what is left over of an epoch is dropped.
        pixels: Largest shift of the jitter.
        seed: Of order and jitter.
    """

    def __init__(self, digits: Digits, batch_size: int, pixels: float, seed: int = 0) -> None:
        self.digits, self.batch_size, self.pixels = digits, batch_size, pixels
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.digits.labels) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.digits.labels), generator=self.generator)
        for rows in order.split(self.batch_size)[: len(self)]:
            yield jitter(self.digits.images[rows], self.generator, self.pixels), self.digits.labels[rows]
