"""Images too large for memory, of which rows are read as they are needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from convneur.data.decode import TooLargeError, decode_image, image_format
from convneur.data.rasters import Axes, LargeImage, in_pieces, of_array
from convneur.data.samples import UnreadableImageError, Values
from convneur.data.samples import of_array as samples_of_array
from convneur.data.tiff_files import Mapped, find_axes, import_zarr, open_tiff
from convneur.files import StrPath, regular_file
from convneur.streaming.regions import spans
from convneur.streaming.zarr_files import zarr_image

TIFF = (".tif", ".tiff", ".btf", ".tf8", ".tf2", ".gtiff", ".svs", ".ndpi")
MOST_CHANNELS = 64  # what has more at its end has them in front


def open_large(source: StrPath | Any, fill: float | None = None) -> LargeImage:
    """Open an image without reading it.

    Args:
        source: A TIFF (BigTIFF, OME-TIFF, GeoTIFF, of any layout), a Zarr array or OME-Zarr group, an .npy file, or
            another image file; or an array (H, W), (H, W, C) or (C, H, W) that gives rows when it is sliced.
        fill: What takes the place of missing pixels, in numbers of the file; they are refused if not given.

    Raises:
        FileNotFoundError: If there is none.
        UnreadableImageError: If it is no image, or not of a kind that rows can be read of.
        ImportError: If a package that reads it is missing.
    """
    if not isinstance(source, (str, os.PathLike)):
        named = f"array of {tuple(source.shape)}"
        image = _named(named, lambda: _of_array(source, fill=fill))
        image.identity = f"{named} {_hash(image)}"  # or a job would go on with another array of that shape
        return image
    path = Path(source).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give an image")
    if not path.is_dir():
        regular_file(path)
    image = _named(str(path), lambda: _open(path, fill))
    stat = path.stat()
    image.identity = f"{path.name} ({stat.st_size} bytes, {stat.st_mtime_ns})"
    return image


def _named(name: str, opened: Callable[[], LargeImage]) -> LargeImage:
    """An image whose errors say which it is."""
    try:
        image = opened()
    except UnreadableImageError as error:
        raise (error if name in str(error) else UnreadableImageError(f"{name}: {error}")) from error
    image.named = name
    return image


def _open(path: Path, fill: float | None) -> LargeImage:
    if path.is_dir():
        return _open_zarr(path, fill)
    if path.suffix.lower() == ".npy":
        try:
            array = np.lib.format.open_memmap(path, mode="r")  # which refuses objects
        except Exception as error:  # what is no array raises anything from EOFError to ValueError
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UnreadableImageError(f"{path} is no .npy file of numbers ({reason})") from error
        fortran = not array.flags.c_contiguous
        return _of_array(Mapped(path, array.dtype, array.offset, array.shape, fortran), fill=fill)
    if path.suffix.lower() == ".npz":
        raise UnreadableImageError(f"{path} is an archive of arrays; save the one that is meant as .npy")
    if path.suffix.lower() in TIFF:
        return open_tiff(path, fill)
    return _open_other(path)


def _open_zarr(path: Path, fill: float | None) -> LargeImage:
    zarr = import_zarr("a Zarr array")
    folder, names = zarr_image(path)
    try:
        array: Any = zarr.open_array(folder, mode="r")
    except Exception as error:  # of metadata that are no array's all the same
        raise UnreadableImageError(
            f"{folder} is no Zarr array that can be read ({' '.join(str(error).split())})"
        ) from error
    axes = _guessed(array.shape) if names is None else find_axes(names, array.shape)
    return _of_array(in_pieces(array, axes.row), axes, fill)


def _open_other(path: Path) -> LargeImage:
    """Whole, as any image; what is too large for that by libvips, where it is installed."""
    try:
        return _of_array(np.asarray(decode_image(path)))
    except TooLargeError as error:
        try:
            import pyvips
        except (ImportError, OSError):  # the package without the library
            raise UnreadableImageError(
                f"{error}; store it as a tiled TIFF, or install libvips and pyvips, which read rows of it"
            ) from error
    try:
        image_format(path)  # libvips opens many more, some by other programs
        image: Any = pyvips.Image.new_from_file(str(path)).autorot()
        white = {"uchar": 255, "ushort": 65535}.get(image.format)
        if white is None or image.interpretation not in ("srgb", "b-w", "rgb16", "grey16"):
            raise UnreadableImageError(f"it is {image.interpretation} of {image.format}; store it as a tiled TIFF")
        if image.hasalpha():
            image = image.flatten(background=[white], max_alpha=white)
    except pyvips.Error as error:
        raise UnreadableImageError(" ".join(str(error).split())) from error

    def rows(start: int, stop: int) -> Values:
        return np.asarray(image.crop(0, start, image.width, stop - start).numpy()).reshape(
            stop - start, image.width, -1
        )

    return LargeImage(rows, image.height, image.width, samples_of_array(image.bands, rows(0, 1).dtype))


def _guessed(shape: tuple[int, ...]) -> Axes:
    if len(shape) not in (2, 3) or not all(shape):
        raise UnreadableImageError(f"it has the shape {shape}; give (H, W), (H, W, C) or (C, H, W)")
    front = len(shape) == 3 and shape[2] > MOST_CHANNELS
    return Axes(0, 1) if len(shape) == 2 else Axes(1, 2, 0) if front else Axes(0, 1, 2)


def _hash(image: LargeImage) -> str:
    found = hashlib.sha256()
    for rows in spans(image.height, 256):
        found.update(np.ascontiguousarray(image.raw(rows)).tobytes())
    return found.hexdigest()[:16]


def _of_array(array: Any, axes: Axes | None = None, fill: float | None = None) -> LargeImage:
    axes = axes or _guessed(tuple(int(length) for length in array.shape))
    count = 1 if axes.sample is None else int(array.shape[axes.sample])
    return of_array(array, axes, samples_of_array(count, np.dtype(array.dtype)), fill)
