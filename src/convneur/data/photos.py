"""scikit-learn's sample photographs, shipped with the package."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

SAMPLES = ("china.jpg", "flower.jpg")


def sample_image(name: str = "china.jpg") -> Image.Image:
    """A photograph: one of `SAMPLES`.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_sample_image
    except ImportError as error:
        raise ImportError("the sample photographs are scikit-learn's; pip install 'convneur[train]'") from error
    return Image.fromarray(load_sample_image(name))


def sample_photo(name: str = "china.jpg", size: int = 256) -> Tensor:
    """A photograph (3, size, size) in [0, 1]: the centre square of one of `SAMPLES`."""
    pixels = torch.from_numpy(np.array(sample_image(name))).permute(2, 0, 1).float() / 255
    side = min(pixels.shape[1:])
    top, left = ((extent - side) // 2 for extent in pixels.shape[1:])
    square = pixels[None, :, top : top + side, left : left + side]
    return F.interpolate(square, size=(size, size), mode="bilinear", antialias=True)[0].clamp(0, 1)
