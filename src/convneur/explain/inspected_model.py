"""A model to look into, and how an image gets there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from convneur.data.decode import UnreadableImageError

Body = TypeVar("Body", bound=nn.Module, covariant=True)
MOST_PIXELS = 4_000_000  # that a model takes at once: slopes of so many fit into a few gigabytes


@dataclass(frozen=True)
class InspectedModel(Generic[Body]):
    """A model that can be looked into or timed, and what stands around it.

    Attributes:
        name: What to call the whole.
        backbone: In eval mode: a whole classifier, of other models what comes before their heads.
        prepare: A picture as the backbone takes it, (1, C, H, W).
        mean: Per channel, that was taken off.
        std: Per channel, that was divided by.
        notes: What a reader must know about its maps.
        classes: Of a trained classifier; none of others.
        trained: Whether it was.
    """

    name: str
    backbone: Body
    prepare: Callable[[Image.Image], Tensor]
    mean: Sequence[float]
    std: Sequence[float]
    notes: Sequence[str]
    classes: Sequence[str] = ()
    trained: bool = True

    def picture(self, image: Tensor) -> Tensor:
        """A prepared image as people see it, (3, H, W) in [0, 1]."""
        mean, std = (torch.tensor(each)[:, None, None] for each in (self.mean, self.std))
        return (image[0].cpu() * std + mean).clamp(0, 1).expand(3, -1, -1)

    def refuse_large(self, image: Tensor) -> None:
        """Raise if a prepared image has more pixels than may be looked at.

        Raises:
            UnreadableImageError: In one line that says how many.
        """
        height, width = image.shape[2:]
        if height * width > MOST_PIXELS:
            raise UnreadableImageError(
                f"the model would take it as {width} x {height} px, and {MOST_PIXELS / 1e6:g} megapixels at once is "
                "the most; give a smaller image or --image-size"
            )
