"""Batches of images with a class for every pixel; see `convneur.data.loading` for what decides which.

Shape letters: B batch, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from convneur.data.decode import UnreadableImageError
from convneur.data.loading import PADDING, ImageCache, next_usable, seeded
from convneur.data.module import PictureData
from convneur.data.semantic.masks import IGNORED, MaskEncoding, MaskError
from convneur.data.semantic.sources import PixelSource
from convneur.data.transforms import pixels_of, scale_to

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, which timm's checkpoints expect
TRIES = 10


class PixelExample(NamedTuple):
    """One image (3, H, W) and its classes (H, W); ``number`` is its index in the source."""

    image: Tensor
    labels: Tensor
    number: int
    unreadable: list[tuple[str, str]]
    unknown_labels: list[tuple[str, int]]


class PixelBatch(NamedTuple):
    """Images and classes: stacked in training, lists of any sizes in evaluation.

    Attributes:
        images: (B, 3, H, W), normalised, or B of (3, H, W), bytes.
        labels: (B, H, W), or B of (H, W); `IGNORED` counts nowhere.
        indices: (B,) in the source.
        unreadable: Files that could not be used, and why.
        unknown_labels: Masks with numbers or colours that are no class, and how many pixels have them.
    """

    images: Any
    labels: Any
    indices: Tensor
    unreadable: list[tuple[str, str]]
    unknown_labels: list[tuple[str, int]]


class PixelSet(Dataset[PixelExample]):
    """What training and evaluation share.

    Args:
        pictures: Decoded images of a `PixelImages`.
        code: How its masks tell classes.
        strict: Whether a mask that cannot be used, or has pixels of no class, is an error.
    """

    def __init__(self, pictures: ImageCache, code: MaskEncoding, strict: bool) -> None:
        self.pictures, self.code, self.strict = pictures, code, strict
        self.images: Any = pictures.images

    def pair(self, index: int) -> tuple[Image.Image, Tensor, list[tuple[str, int]]]:
        """A picture, its classes (H, W), and how many pixels of which mask are of no class.

        Raises:
            UnreadableImageError: If one of the two cannot be used.
            OSError: If one of the two is gone.
            MaskError: If the mask cannot be used and that is an error; with the name of the file.
        """
        picture, masks = self.pictures[index], self.images.masks
        name, size = masks.name(index), (picture.height, picture.width)
        try:
            labels, unknown = self.code.decode(masks.read(index), size, self.strict, self.pictures.max_pixels)
        except MaskError as error:
            kind = MaskError if self.strict else UnreadableImageError
            raise kind(f"{name}: {error}") from error
        return picture, torch.from_numpy(labels), [(name, unknown)] if unknown else []


class TrainPixels(PixelSet):
    """Varied images by (epoch, index). A pair that cannot be used is replaced by the next that can, and reported."""

    def __init__(
        self, pictures: ImageCache, code: MaskEncoding, strict: bool, transform: v2.Compose, seed: int
    ) -> None:
        super().__init__(pictures, code, strict)
        self.transform, self.seed = transform, seed

    def __getitem__(self, key: tuple[int, int]) -> PixelExample:
        epoch, wanted = key
        index, (picture, labels, odd), unreadable = next_usable(self.images, wanted, self.pair)
        with seeded(self.seed, epoch, index):
            image, mask = self.transform(tv_tensors.Image(pixels_of(picture)), tv_tensors.Mask(labels))
        return PixelExample(image, mask.long(), index, unreadable, odd)


class EvalPixels(PixelSet):
    """Images in order, as they are, in bytes. A pair that cannot be used has the index `PADDING`, and is reported."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> PixelExample:
        unreadable = []
        try:
            if index != PADDING:
                picture, labels, odd = self.pair(index)
                return PixelExample(pixels_of(picture), labels, index, [], odd)
        except (UnreadableImageError, OSError) as error:
            unreadable = [(self.images.name(index), str(error))]
        nothing = torch.zeros(3, 32, 32, dtype=torch.uint8), torch.full((32, 32), IGNORED, dtype=torch.uint8)
        return PixelExample(*nothing, PADDING, unreadable, [])


def stack(examples: Sequence[PixelExample]) -> PixelBatch:
    """A batch of crops of one size."""
    return _batch(examples, torch.stack([e.image for e in examples]), torch.stack([e.labels for e in examples]))


def listed(examples: Sequence[PixelExample]) -> PixelBatch:
    """A batch of images of any sizes."""
    return _batch(examples, [e.image for e in examples], [e.labels for e in examples])


def _batch(examples: Sequence[PixelExample], images: Any, labels: Any) -> PixelBatch:
    return PixelBatch(
        images,
        labels,
        torch.tensor([e.number for e in examples]),
        [note for e in examples for note in e.unreadable],
        [note for e in examples for note in e.unknown_labels],
    )


def normalised(pixels: Tensor) -> Tensor:
    """Bytes (..., 3, H, W) as a model takes them."""
    mean, std = (torch.tensor(each, device=pixels.device)[:, None, None] for each in (MEAN, STD))
    return (pixels.float() / 255 - mean) / std


class ScaleAndCrop(nn.Module):
    """Resize by a drawn factor, then crop; what the crop lacks is grey and counts nowhere.

    Args:
        scales: Least and largest factor.
        size: Height and width of the crop.
        usual: Pixels that the shorter side has at a factor of 1, as in evaluation; 0 for what it has.
        most: Largest share of the crop's pixels that a single class may have; it is drawn anew until then, ten times at
            most (published for ADE20K with 0.75).
    """

    def __init__(self, scales: tuple[float, float], size: tuple[int, int], usual: int = 0, most: float = 1.0) -> None:
        super().__init__()
        self.scales, self.usual, self.most = scales, usual, most
        fill: Any = {tv_tensors.Image: 114, tv_tensors.Mask: IGNORED}
        self.crop = v2.RandomCrop(size, pad_if_needed=True, fill=fill)

    def forward(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> Any:
        """Image (3, H, W) and classes (H, W) -> both, of the size of the crop."""
        height, width = image.shape[-2:]
        scale = float(torch.empty(()).uniform_(*self.scales)) * (
            scale_to(self.usual, height, width) if self.usual else 1
        )
        resized = v2.Resize([max(1, round(height * scale)), max(1, round(width * scale))], antialias=True)(image, mask)
        for _ in range(TRIES):
            cropped = self.crop(*resized)
            if self.most >= 1 or _largest_share(cropped[1]) <= self.most:
                break
        return cropped


def _largest_share(labels: Tensor) -> float:
    """Of one class among the pixels that count."""
    counts = torch.bincount(labels.flatten().long(), minlength=IGNORED + 1)[:IGNORED]
    return float(counts.max() / counts.sum().clamp(min=1))


def pixel_transform(
    size: tuple[int, int],
    scales: tuple[float, float] = (0.5, 2.0),
    hflip: float = 0.5,
    color_jitter: float = 0.0,
    most: float = 1.0,
    usual: int = 0,
) -> v2.Compose:
    """Changes of scale, crops, flips and colours, masks in step with the pixels.

    Args:
        size: Height and width of the crop.
        scales: Least and largest factor.
        hflip: Probability of left for right.
        color_jitter: Strength of changes to brightness, contrast and saturation.
        most: As for `ScaleAndCrop`.
        usual: As for `ScaleAndCrop`.
    """
    colours = [v2.ColorJitter(color_jitter, color_jitter, color_jitter)] if color_jitter else []
    return v2.Compose(
        [
            ScaleAndCrop(scales, size, usual, most),
            v2.RandomHorizontalFlip(hflip),
            *colours,
            v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
            v2.Normalize(MEAN, STD),
            v2.ToPureTensor(),
        ]
    )


class PixelData(PictureData):
    """Images with a class for every pixel.

    Args:
        source: The images and their masks.
        transform: Of training images; see `pixel_transform`.
        batch_size: Images per batch of one process.
        strict: Whether a mask that cannot be used, or has pixels of no class, is an error.
        **options: Other arguments of `PictureData`.
    """

    collate = staticmethod(stack)
    collate_evaluation = staticmethod(listed)

    def __init__(
        self, source: PixelSource, transform: v2.Compose, batch_size: int, strict: bool = False, **options: Any
    ) -> None:
        super().__init__(source, batch_size, **options)
        self.transform, self.strict = transform, strict

    def training_set(self, pictures: ImageCache) -> TrainPixels:
        """Varied crops by (epoch, index)."""
        return TrainPixels(pictures, self.source.code, self.strict, self.transform, self.seed)

    def evaluation_set(self, pictures: ImageCache) -> EvalPixels:
        """Images in order."""
        return EvalPixels(pictures, self.source.code, self.strict)
