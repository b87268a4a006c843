"""How training images of classifiers are varied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class AugmentConfig:
    """How training images are varied; all names are timm's.

    Attributes:
        crop: ``rrc``: a random part, resized. ``rkrr``: the whole, scaled and shifted a little (for small images).
        scale: Smallest and largest part (``rrc``) or scale (``rkrr``) of the image's area.
        hflip: Probability of a mirror image.
        auto_augment: RandAugment or AutoAugment in timm's notation, or ``none``.
        color_jitter: Strength, where there is no ``auto_augment``.
        erasing: Probability of erasing a rectangle.
        mixup: Alpha of Mixup; 0 for none.
        cutmix: Alpha of CutMix; 0 for none.
        label_smoothing: Share of a label spread over all classes.
    """

    crop: Literal["rrc", "rkrr"] = "rrc"
    scale: tuple[float, float] = (0.08, 1.0)
    hflip: float = 0.5
    auto_augment: str = "rand-m9-mstd0.5-inc1"
    color_jitter: float = 0.4
    erasing: float = 0.25
    mixup: float = 0.8
    cutmix: float = 1.0
    label_smoothing: float = 0.1
