"""From a decoded picture to the tensor a model takes; the transforms are timm's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor

from convneur_options.augment import AugmentConfig

Transform = Callable[[Image.Image], Tensor]
LONGEST_SIDE = 16  # over the shorter one, where that is resized: the other would grow without bound


@dataclass(frozen=True)
class Preprocessing:
    """What a model expects of an image; the names are those of timm's ``pretrained_cfg``.

    Attributes:
        input_size: Channels, height and width.
        mean: Per channel, of pixels in [0, 1].
        std: Per channel.
        interpolation: Of resizing.
        crop_pct: Part of the resized image that the crop in the middle keeps.
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0

    @staticmethod
    def of(config: dict[str, Any], image_size: int | None = None) -> Preprocessing:
        """Read timm's ``pretrained_cfg``, at another image size if one is given."""
        channels, height, width = config["input_size"]
        size = (channels, image_size or height, image_size or width)
        mean, std = (tuple(config[key])[:channels] for key in ("mean", "std"))
        return Preprocessing(size, mean, std, config["interpolation"], config["crop_pct"])


def train_transform(to: Preprocessing, augment: AugmentConfig) -> Transform:
    """Random view of a training image, as a tensor (C, H, W)."""
    transform = create_transform(
        to.input_size,
        is_training=True,
        train_crop_mode=augment.crop,
        scale=augment.scale,
        hflip=augment.hflip,
        auto_augment=None if augment.auto_augment == "none" else augment.auto_augment,
        color_jitter=augment.color_jitter,
        re_prob=augment.erasing,
        re_mode="pixel",
        interpolation=to.interpolation,
        mean=to.mean,
        std=to.std,
    )
    for step in transform.transforms:
        for op in getattr(step, "ops", ()):
            if op.name.startswith("Posterize"):
                op.level_fn = _AtLeastOneBit(op.level_fn)
    return _with_channels(to, transform if augment.crop == "rrc" else _NotTooThin(transform))


def eval_transform(to: Preprocessing) -> Transform:
    """The middle of an image, as a tensor (C, H, W); the same every time."""
    transform = create_transform(
        to.input_size, mean=to.mean, std=to.std, interpolation=to.interpolation, crop_pct=to.crop_pct
    )
    return _with_channels(to, _NotTooThin(transform))


def pixels_of(picture: Image.Image) -> Tensor:
    """Bytes (3, H, W) of an RGB picture."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def scale_to(size: int, height: int, width: int) -> float:
    """The factor that gives the shorter side of an image ``size`` pixels; less where the other would be too long."""
    return min(size / min(height, width), LONGEST_SIDE * size / max(height, width))


def _with_channels(to: Preprocessing, transform: Any) -> Transform:
    return _Grey(transform) if to.input_size[0] == 1 else transform


class _NotTooThin:
    """The middle of a thin image, of which no more is looked at; a class, as `_Grey` is."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __call__(self, image: Image.Image) -> Tensor:
        width, height = image.size
        kept = LONGEST_SIDE * min(width, height)
        left, top = max(0, (width - kept) // 2), max(0, (height - kept) // 2)
        if left or top:
            image = image.crop((left, top, min(width, left + kept), min(height, top + kept)))
        return self.transform(image)


class _Grey:
    """For models of one channel; a class, so that it can be sent to worker processes."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __call__(self, image: Image.Image) -> Tensor:
        return self.transform(image.convert("L"))


class _AtLeastOneBit:
    """timm's strongest posterization keeps 0 bits, which is a black image, and an error from Pillow 13 on."""

    def __init__(self, level_fn: Callable[..., tuple[int, ...]]) -> None:
        self.level_fn = level_fn

    def __call__(self, level: float, hparams: dict[str, Any]) -> tuple[int, ...]:
        return (max(1, self.level_fn(level, hparams)[0]),)
