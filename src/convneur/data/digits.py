"""scikit-learn's handwritten digits: 1,797 real scans of 8 x 8 pixels, shipped with the package."""

from __future__ import annotations

import io
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from convneur.data.formats.images import LabelArray
from convneur.data.split import Source
from convneur.data.split_names import Judged, no_part

HELD_OUT = 360  # a fifth


class Digits(NamedTuple):
    """Scans (N, 1, S, S), ink 1 on paper 0, and their digits (N,)."""

    images: Tensor
    labels: Tensor


def load_digits(size: int = 8, seed: int = 0) -> tuple[Digits, Digits]:
    """Training and held-out digits.

    Args:
        size: Pixels a side; the scans are enlarged bilinearly.
        seed: Of the split.

    Returns:
        1,437 digits to train on, and 360 that are stratified over the ten classes.
    """
    from sklearn.datasets import load_digits as load_scans
    from sklearn.model_selection import train_test_split

    scans = load_scans()
    images = torch.from_numpy(scans.images).float().unsqueeze(1) / 16
    if size != images.shape[-1]:
        images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    labels = torch.from_numpy(scans.target).long()
    train, held_out = train_test_split(range(len(labels)), test_size=HELD_OUT, random_state=seed, stratify=scans.target)
    return Digits(images[train], labels[train]), Digits(images[held_out], labels[held_out])


class ScanImages:
    """Digits (N, 1, S, S) in [0, 1] as grey PNG files in memory: ink is white on black."""

    def __init__(self, scans: Tensor, labels: Tensor) -> None:
        self.pixels = (scans[:, 0] * 255).round().byte().numpy()
        self.labels: LabelArray = labels.numpy()

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        """Encode one scan."""
        buffer = io.BytesIO()
        Image.fromarray(self.pixels[index]).save(buffer, "PNG")
        return buffer.getvalue()

    def name(self, index: int) -> str:
        """Number of the scan."""
        return f"digits {index}"


def open_digits(part: Judged) -> Source:
    """The digits as a source; they have no part ``test``."""
    if part != "val":
        raise no_part("digits", part, {"train": "train", "val": "val"})
    train, val = load_digits()
    return Source(
        ScanImages(*train), ScanImages(*val), [str(digit) for digit in range(10)], held_out="the digits' own split"
    )
