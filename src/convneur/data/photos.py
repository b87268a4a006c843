"""scikit-learn's sample photographs, shipped with the package."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_photo(name: str = "china.jpg", size: int = 256) -> Tensor:
    """A photograph (3, size, size) in [0, 1]: ``china.jpg`` or ``flower.jpg``, its centre square."""
    from sklearn.datasets import load_sample_image

    pixels = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1).float() / 255
    side = min(pixels.shape[1:])
    top, left = ((extent - side) // 2 for extent in pixels.shape[1:])
    square = pixels[None, :, top : top + side, left : left + side]
    return F.interpolate(square, size=(size, size), mode="bilinear", antialias=True)[0].clamp(0, 1)
