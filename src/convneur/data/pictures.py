"""Images as people have them in Python or on disk, as one list that can be read by number."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from convneur.data.decode import MAX_PIXELS, UnreadableImageError, as_seen, decode_image
from convneur.data.image_files import find_images
from convneur.data.paths import read_file

ImageLike = str | os.PathLike[str] | Image.Image | npt.NDArray[Any] | Tensor


class OpenedImages:
    """Images of any kind, without labels.

    Args:
        items: Names of files, and pictures.
    """

    def __init__(self, items: Sequence[str | Image.Image]) -> None:
        self.items = list(items)
        self.labels = np.zeros(len(self.items), np.int64)

    def __len__(self) -> int:
        return len(self.items)

    def read(self, index: int) -> bytes | Image.Image:
        """Bytes of a file, or a picture as it is."""
        item = self.items[index]
        return read_file(item) if isinstance(item, str) else item

    def name(self, index: int) -> str:
        """Of a file; of others their number."""
        item = self.items[index]
        return item if isinstance(item, str) else f"image {index}"

    def picture(self, index: int, max_pixels: int = MAX_PIXELS) -> Image.Image:
        """Decoded, RGB.

        Raises:
            UnreadableImageError: If it cannot be; with the name of the file.
        """
        item = self.items[index]
        if not isinstance(item, str):
            return item
        try:
            return decode_image(item, max_pixels)
        except (UnreadableImageError, OSError) as error:
            raise UnreadableImageError(f"{item} cannot be read ({error}); leave it out, or mend it") from error


def open_images(
    images: ImageLike | Sequence[ImageLike], tell: Callable[[str], object] = lambda note: None
) -> OpenedImages:
    """Images that people give: one, or several of any kinds.

    Args:
        images: Files, folders (searched to the bottom) and globs; Pillow images; arrays (H, W, 3) or (H, W) and tensors
            (3, H, W) or (1, H, W), of bytes or of floats in 0 to 1.
        tell: Called with what to say of files in folders that look like images and are not used.

    Raises:
        FileNotFoundError: If a path names nothing, or a folder holds no images.
        ValueError: For none, for an address on the web, and for arrays and tensors that are no image.
    """
    several = [images] if isinstance(images, str | os.PathLike | Image.Image | np.ndarray | Tensor) else list(images)
    if not several:
        raise ValueError("no images given; give image files, folders or globs")
    items: list[str | Image.Image] = []
    for each in several:
        if isinstance(each, str | os.PathLike):
            items += find_images(each, tell)
        else:
            items.append(as_picture(each))
    return OpenedImages(items)


def as_picture(image: Image.Image | npt.NDArray[Any] | Tensor) -> Image.Image:
    """An image in memory as a picture, RGB.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(image, Image.Image):
        return as_seen(image.copy())  # as a file is: turned, scaled, over white
    if isinstance(image, Tensor):
        pixels = image.detach().cpu()
        if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
            raise ValueError(f"a tensor of shape {tuple(image.shape)} is no image; give (3, H, W) or (1, H, W)")
        array = pixels.permute(1, 2, 0).numpy()
    else:
        array = np.asarray(image)
        if array.ndim == 2:
            array = array[..., None]
        if array.ndim != 3 or array.shape[2] not in (1, 3):
            raise ValueError(f"an array of shape {np.shape(image)} is no image; give (H, W, 3) or (H, W)")
    if not array.size:
        raise ValueError("an image of no pixels was given; leave it out")
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise ValueError("floats of an image must be in 0 to 1; divide bytes by 255, and do not normalise them")
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"an image of {array.dtype} was given; give bytes (uint8), or floats in 0 to 1")
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3))))
