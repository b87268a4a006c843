"""Whether an exported model says what the model says, on photographs, at several sizes and batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from convneur.data.transforms import Preprocessing, eval_transform
from convneur.export.program import awkward_size

BATCHES = (1, 4)
TOLERANCE = 1e-4


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


def sizes_to_check(config: Mapping[str, Any]) -> list[tuple[int, int]]:
    """The model's own size; if others are allowed, an odd one that is not square, and a larger one.

    Args:
        config: Of an exported model, in timm's names.
    """
    _, height, width = config["input_size"]
    if config["fixed_input_size"]:
        return [(height, width)]
    # Half the smallest side is the total stride of a model of ours: fewer than two pixels of the last map do not do.
    stride = max(16, max(config["min_input_size"][1:]) // 2)
    return [(height, width), awkward_size((height, width), stride), (height * 3 // 2, width * 3 // 2)]


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

    Raises:
        ValueError: If the other does not answer at all.
    """
    expected = model(images)
    height, width = images.shape[-2:]
    try:
        answers = other(images)
    except Exception as error:  # whatever the runtimes raise
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"the exported model does not run at {height} x {width} px, batch {len(images)} ({reason}); it was not "
            "kept; try another --format, or --no-dynamic"
        ) from error
    difference = (answers - expected).abs().max()
    return Agreement((height, width), len(images), float(difference), float(expected.abs().max()))


def require_agreement(found: Agreement) -> None:
    """Ask for a difference of no more than `TOLERANCE`.

    Raises:
        ValueError: If it is larger, or no number.
    """
    if not found.difference <= TOLERANCE:
        height, width = found.size
        raise ValueError(
            f"the exported model differs from PyTorch by {found.difference:.1e} at {height} x {width} px, batch "
            f"{found.batch}, and should by no more than {TOLERANCE:.0e}; it was not kept; try another --format"
        )
