"""Whether an exported model says what the model says, on photographs, at several sizes and batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from convneur.data.transforms import Preprocessing, eval_transform

BATCHES = (1, 4)
SMALLEST = 64  # see `convneur.export.program`


@dataclass(frozen=True)
class Agreement:
    """Of two models on one batch.

    Attributes:
        size: Height and width.
        batch: Images.
        difference: Largest, of any logit.
        scale: Largest logit.
    """

    size: tuple[int, int]
    batch: int
    difference: float
    scale: float


def sizes_to_check(size: tuple[int, int], dynamic: bool) -> list[tuple[int, int]]:
    """The model's own size; if others are allowed, an odd one that is not square, and a larger one."""
    height, width = size
    if not dynamic:
        return [size]
    odd = (round(0.72 * height) | 1, round(1.29 * width) | 1)
    found = [size, odd, (height * 3 // 2, width * 3 // 2)]
    return [(max(SMALLEST, high), max(SMALLEST, wide)) for high, wide in found]


def photo_batches(
    photos: Sequence[Image.Image], preprocessing: Preprocessing, sizes: Sequence[tuple[int, int]]
) -> Iterator[Tensor]:
    """Batches (B, C, H, W) of the photographs and their mirror images, each as the model would see it."""
    pictures = [*photos, *map(ImageOps.mirror, photos)]
    for height, width in sizes:
        transform = eval_transform(replace(preprocessing, input_size=(preprocessing.input_size[0], height, width)))
        for batch in BATCHES:
            yield torch.stack([transform(pictures[index % len(pictures)]) for index in range(batch)])


@torch.inference_mode()
def agreement(model: nn.Module, other: Callable[[Tensor], Tensor], images: Tensor) -> Agreement:
    """Compare the answers to one batch (B, C, H, W).

    Args:
        model: In eval mode.
        other: What should answer the same.
        images: On the CPU.
    """
    expected = model(images)
    difference = (other(images) - expected).abs().max()
    height, width = images.shape[-2:]
    return Agreement((height, width), len(images), float(difference), float(expected.abs().max()))
