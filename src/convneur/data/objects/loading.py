"""Batches of images with what is on them; see `convneur.data.loading` for what decides which.

Shape letters: n objects of an image, H W pixels of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from convneur.data.decode import UnreadableImageError
from convneur.data.loading import PADDING, ImageCache, next_usable, seeded
from convneur.data.module import PictureData
from convneur.data.objects.annotations import SMALLEST, ObjectImages, ObjectSource
from convneur.data.objects.masks import decode_masks
from convneur.data.transforms import pixels_of


class Seen(NamedTuple):
    """One image, (3, H, W) in 0 to 1, with its targets; ``number`` is its index in the source."""

    image: Tensor
    target: dict[str, Tensor]
    number: int
    unreadable: list[tuple[str, str]]


class ObjectBatch(NamedTuple):
    """Images of any sizes, what is on each, their indices in the source, and which files could not be read and why."""

    images: list[Tensor]
    targets: list[dict[str, Tensor]]
    indices: Tensor
    unreadable: list[tuple[str, str]]


def collate_objects(examples: Sequence[Seen]) -> ObjectBatch:
    """List examples; images of different sizes cannot be stacked."""
    return ObjectBatch(
        [e.image for e in examples],
        [e.target for e in examples],
        torch.tensor([e.number for e in examples]),
        [note for e in examples for note in e.unreadable],
    )


class TrainObjects(Dataset[Seen]):
    """Varied images by (epoch, index). One that cannot be read is replaced by the next that can, and reported.

    Args:
        pictures: Decoded images of an `ObjectImages`.
        transform: From an image (3, H, W) of bytes and its target; see `train_transform`.
        seed: Of what is drawn.
        with_masks: Whether targets have masks.
    """

    def __init__(self, pictures: ImageCache, transform: Any, seed: int, with_masks: bool) -> None:
        self.pictures, self.transform, self.seed, self.with_masks = pictures, transform, seed, with_masks
        self.images: Any = pictures.images

    def __getitem__(self, key: tuple[int, int]) -> Seen:
        epoch, wanted = key
        index, picture, unreadable = next_usable(self.images, wanted, self.pictures.__getitem__)
        with seeded(self.seed, epoch, index):
            image, target = self.transform(*to_tensors(picture, self.images, index, self.with_masks))
        return Seen(image, target, index, unreadable)


class EvalObjects(Dataset[Seen]):
    """Images in order, as they are. One that cannot be read is black with the index `PADDING`, and reported."""

    def __init__(self, pictures: ImageCache) -> None:
        self.pictures = pictures
        self.images: Any = pictures.images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Seen:
        if index == PADDING:
            return Seen(torch.zeros(3, 32, 32), {}, PADDING, [])
        try:
            picture = self.pictures[index]
        except (UnreadableImageError, OSError) as error:
            return Seen(torch.zeros(3, 32, 32), {}, PADDING, [(self.images.name(index), str(error))])
        if isinstance(self.images, ObjectImages):
            _check_size(picture, self.images, index)
        return Seen(pixels_of(picture).float().div_(255), {}, index, [])


def _check_size(picture: Image.Image, images: ObjectImages, index: int) -> None:
    height, width = images.sizes[index]
    if (picture.height, picture.width) != (height, width):
        raise ValueError(
            f"{images.name(index)} has {picture.width} x {picture.height} px, turned as the camera was held, and its "
            f"annotations are for {width} x {height}; correct either"
        )


def to_tensors(
    picture: Image.Image, images: ObjectImages, index: int, with_masks: bool
) -> tuple[tv_tensors.Image, dict[str, Tensor]]:
    """An image and what can be learned from it: no crowds, and no boxes below a pixel.

    Returns:
        (3, H, W) of bytes, and ``boxes``, ``labels`` from 1 on, and ``masks``.

    Raises:
        ValueError: If the picture is not of the size that the annotations are for.
    """
    _check_size(picture, images, index)
    height, width = images.sizes[index]
    objects = images.objects[index]
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    kept = np.flatnonzero(~objects.crowd & (sides >= SMALLEST).all(1))
    target: dict[str, Tensor] = {
        "boxes": tv_tensors.BoundingBoxes(
            torch.from_numpy(objects.boxes[kept]), format="XYXY", canvas_size=(height, width)
        ),
        "labels": torch.from_numpy(objects.labels[kept]) + 1,
    }
    if with_masks:
        shapes = [objects.shapes[number] for number in kept.tolist()]
        try:
            target["masks"] = tv_tensors.Mask(torch.from_numpy(decode_masks(shapes, height, width)))
        except ValueError as error:
            raise ValueError(f"{images.name(index)} has {error}; correct its annotations") from error
    return tv_tensors.Image(pixels_of(picture)), target


class Jitter(nn.Module):
    """Resize as a detector does, but by a factor more or less, then crop and pad to a square.

    What is cropped has the scale at which the detector sees images later, more or less (Ghiasi et al., CVPR 2021).

    Args:
        scales: Least and largest factor.
        min_size: Pixels that a detector resizes the shorter side to; and the side of the square.
        max_size: Pixels that the longer side may have.
    """

    def __init__(self, scales: tuple[float, float], min_size: int, max_size: int) -> None:
        super().__init__()
        self.scales, self.min_size, self.max_size = scales, min_size, max_size
        fill: Any = {tv_tensors.Image: 114, "others": 0}
        self.crop = v2.RandomCrop((min_size, min_size), pad_if_needed=True, fill=fill)

    def forward(self, image: tv_tensors.Image, target: dict[str, Tensor]) -> Any:
        """An image (3, H, W) and its target -> both, changed."""
        height, width = image.shape[-2:]
        usual = min(self.min_size / min(height, width), self.max_size / max(height, width))
        scale = usual * float(torch.empty(()).uniform_(*self.scales))
        size = [max(1, round(height * scale)), max(1, round(width * scale))]
        return self.crop(*v2.Resize(size, antialias=True)(image, target))


def train_transform(
    hflip: float = 0.5, vflip: float = 0.0, color_jitter: float = 0.0, jitter: Jitter | None = None
) -> v2.Compose:
    """Flips, changes of scale and colour, boxes and masks in step with the pixels.

    Args:
        hflip: Probability of left for right.
        vflip: Probability of top for bottom.
        color_jitter: Strength of changes to brightness, contrast and saturation.
        jitter: Changes of scale; None for whole images as they are.
    """
    # Boxes that stick out would be taken for mistakes and left out with their objects.
    steps: list[Any] = [
        v2.ClampBoundingBoxes(),
        v2.RandomHorizontalFlip(hflip),
        v2.RandomVerticalFlip(vflip),
        *([jitter] if jitter else []),
    ]
    if color_jitter:
        steps.append(v2.ColorJitter(color_jitter, color_jitter, color_jitter))
    steps += [
        v2.SanitizeBoundingBoxes(min_size=SMALLEST),
        v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
        v2.ToPureTensor(),
    ]
    return v2.Compose(steps)


class ObjectData(PictureData):
    """Images with what is on them.

    Args:
        source: The images and their annotations.
        transform: Of training images; see `train_transform`.
        batch_size: Images per batch of one process.
        with_masks: Whether targets have masks.
        **options: Other arguments of `PictureData`.

    Raises:
        ValueError: If masks are wanted and an object has none.
    """

    collate = staticmethod(collate_objects)

    def __init__(
        self, source: ObjectSource, transform: v2.Compose, batch_size: int, with_masks: bool = False, **options: Any
    ) -> None:
        for images in (source.train, source.val) if with_masks else ():
            images.check_masks(source.classes)
        super().__init__(source, batch_size, **options)
        self.transform, self.with_masks = transform, with_masks

    def training_set(self, pictures: ImageCache) -> TrainObjects:
        """Varied images and targets by (epoch, index)."""
        return TrainObjects(pictures, self.transform, self.seed, self.with_masks)

    def evaluation_set(self, pictures: ImageCache) -> EvalObjects:
        """Images in order."""
        return EvalObjects(pictures)
