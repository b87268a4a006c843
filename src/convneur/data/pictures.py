"""Images as people have them in Python or on disk, as one list that can be read by number."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from convneur.data.decode import MAX_PIXELS, UnreadableImageError, as_seen, check_size, decode_image
from convneur.data.image_files import find_images, several
from convneur.data.paths import read_file

ImageLike = str | os.PathLike[str] | Image.Image | npt.NDArray[Any] | Tensor


class OpenedImages:
    """Images of any kind, without labels.

    Args:
        items: Names of files, and pictures; of a picture that cannot be used, why.
    """

    def __init__(self, items: Sequence[str | Image.Image | UnreadableImageError]) -> None:
        self.items = list(items)
        self.labels = np.zeros(len(self.items), np.int64)

    def __len__(self) -> int:
        return len(self.items)

    def read(self, index: int) -> bytes | Image.Image:
        """Bytes of a file, or a picture as it is."""
        item = self.items[index]
        if isinstance(item, UnreadableImageError):
            raise item
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
        try:
            found = self.read(index)
            return decode_image(found, max_pixels) if isinstance(found, bytes) else found
        except (UnreadableImageError, OSError) as error:
            raise UnreadableImageError(
                f"{self.name(index)} cannot be read ({error}); leave it out, or mend it"
            ) from error


def open_images(
    images: ImageLike | Iterable[ImageLike],
    tell: Callable[[str], object] = lambda note: None,
    max_pixels: int = MAX_PIXELS,
) -> OpenedImages:
    """Images that people give: one, or several of any kinds.

    Args:
        images: Files, folders (searched to the bottom) and globs; Pillow images; arrays (H, W, 3) or (H, W) and tensors
            (3, H, W) or (1, H, W), of bytes or of floats in 0 to 1.
        tell: Called with what to say of files in folders that look like images and are not used.
        max_pixels: Larger images in memory cannot be read; files are opened later.

    Raises:
        FileNotFoundError: If a path names nothing, or a folder holds no images.
        ValueError: For none, for an address on the web, and for what is no image.
    """
    kinds = (str, os.PathLike, Image.Image, np.ndarray, Tensor)
    items: list[str | Image.Image | UnreadableImageError] = []
    for each in several(images, kinds, "image files, folders or globs, Pillow images, arrays or tensors"):
        if isinstance(each, str | os.PathLike):
            items += find_images(each, tell)
            continue
        try:
            items.append(as_picture(each, max_pixels))
        except UnreadableImageError as error:
            items.append(error)
    return OpenedImages(items)


def as_picture(image: Image.Image | npt.NDArray[Any] | Tensor, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An image in memory as a picture, RGB.

    Raises:
        UnreadableImageError: If it is too large, or its file is damaged.
        ValueError: If it is none.
    """
    if isinstance(image, Image.Image):
        _check_size(*image.size, max_pixels)
        try:
            return as_seen(image.copy())  # as a file is: turned, scaled, over white
        except Exception as error:  # of a damaged file, which is read only now
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UnreadableImageError(reason) from error
    if isinstance(image, Tensor):
        shape, kind, fix = tuple(image.shape), "a tensor", "(3, H, W) or (1, H, W), of a batch list(batch)"
        height, width, channels = (*shape[1:], shape[0]) if len(shape) == 3 else (0, 0, 0)
    else:
        shape, kind, fix = image.shape, "an array", "(H, W, 3) or (H, W)"
        height, width, channels = shape if len(shape) == 3 else (*shape, 1) if len(shape) == 2 else (0, 0, 0)
    if channels not in (1, 3):
        raise ValueError(f"{kind} of shape {shape} is no image; give {fix}")
    _check_size(width, height, max_pixels)
    array = _array_of(image) if isinstance(image, Tensor) else np.asarray(image).reshape(height, width, channels)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise ValueError(
                "floats of an image must be in 0 to 1, none of them NaN; divide bytes by 255, and do not normalise them"
            )
        array = (array.astype(np.float32) * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"an image of {array.dtype} was given; give bytes (uint8), or floats in 0 to 1")
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(array, (height, width, 3))))


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if not width * height:
        raise ValueError("an image of no pixels was given; leave it out")
    check_size(width, height, max_pixels)


def _array_of(image: Tensor) -> npt.NDArray[Any]:
    """(C, H, W) -> (H, W, C)."""
    try:
        pixels = image.detach().to_dense().cpu()
        pixels = pixels.float() if pixels.is_floating_point() else pixels  # NumPy has no bfloat16
        return pixels.permute(1, 2, 0).numpy()
    except (RuntimeError, TypeError) as error:  # meta tensors, and dtypes that NumPy does not have
        raise ValueError(
            f"a tensor of {image.dtype} on {image.device} has no pixels to be read; give bytes or floats on the CPU"
        ) from error
