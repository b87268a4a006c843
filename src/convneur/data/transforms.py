"""From a decoded picture to the tensor a model takes; the transforms are timm's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torchvision.transforms import Compose

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

    def scaled(self, factor: float) -> Preprocessing:
        """For images of another size and the same shape."""
        channels, height, width = self.input_size
        return replace(self, input_size=(channels, round(factor * height), round(factor * width)))


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
                op.level_fn = partial(_at_least_one_bit, op.level_fn)
    return _after([] if augment.crop == "rrc" else [_not_too_thin], to, transform)


def eval_transform(to: Preprocessing) -> Transform:
    """The middle of an image, as a tensor (C, H, W); the same every time."""
    transform = create_transform(
        to.input_size, mean=to.mean, std=to.std, interpolation=to.interpolation, crop_pct=to.crop_pct
    )
    return _after([_not_too_thin], to, transform)


def pixels_of(picture: Image.Image) -> Tensor:
    """Bytes (3, H, W) of an RGB picture."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def scale_to(size: int, height: int, width: int) -> float:
    """The factor that gives the shorter side of an image ``size`` pixels; less where the other would be too long."""
    return min(size / min(height, width), LONGEST_SIDE * size / max(height, width))


def _after(steps: list[Callable[[Image.Image], Image.Image]], to: Preprocessing, transform: Any) -> Transform:
    first = [_grey] if to.input_size[0] == 1 else []  # functions of this module can be sent to worker processes
    composed: Transform = Compose([*first, *steps, transform])
    return composed


def _grey(image: Image.Image) -> Image.Image:
    return image.convert("L")


def _not_too_thin(image: Image.Image) -> Image.Image:
    """The middle of a thin image, of which no more is looked at."""
    width, height = image.size
    kept = LONGEST_SIDE * min(width, height)
    left, top = max(0, (width - kept) // 2), max(0, (height - kept) // 2)
    return image.crop((left, top, min(width, left + kept), min(height, top + kept))) if left or top else image


def _at_least_one_bit(levels: Callable[..., tuple[int, ...]], level: float, hparams: dict[str, Any]) -> tuple[int, ...]:
    """timm's strongest posterization keeps 0 bits, which is a black image, and an error from Pillow 13 on."""
    return (max(1, levels(level, hparams)[0]),)
