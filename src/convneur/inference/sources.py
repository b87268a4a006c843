"""Images too large for memory, of which rows are read as they are needed."""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convneur.data.decode import UnreadableImageError, decode_image, image_format
from convneur.files import regular_file
from convneur.inference.spans import Span, spans
from convneur.inference.tiff_files import check_level, check_metadata
from convneur.inference.zarr_files import zarr_image

TIFF = (".tif", ".tiff", ".btf", ".tf8", ".tf2", ".gtiff", ".svs", ".ndpi")
WHITE = {"u": lambda kind: float(np.iinfo(kind).max), "f": lambda kind: 1.0}
LARGEST_PIECE = 2**29  # bytes, of what can be read only as a whole
MOST_CHANNELS = 64  # what has more at its end has them in front


class LargeImage:
    """Rows of an image, on demand.

    Args:
        pixels: Gives rows start to stop as (rows, W, C) of any kind of number.
        height: H.
        width: W.
        channels: C.
        dtype: Kind of number: unsigned whole ones, whose largest is white, or floats, where 1 is.
        identity: What tells this image from others.
    """

    def __init__(
        self,
        pixels: Callable[[int, int], NDArray[Any]],
        height: int,
        width: int,
        channels: int,
        dtype: Any,
        identity: str,
    ) -> None:
        self.height, self.width, self.channels, self.identity = height, width, channels, identity
        self.dtype = np.dtype(dtype)
        if self.dtype.kind not in WHITE:
            raise UnreadableImageError(
                f"{identity} holds numbers of the kind {self.dtype}; store it as unsigned integers or floats"
            )
        if (row := width * channels * self.dtype.itemsize) > LARGEST_PIECE:
            raise UnreadableImageError(
                f"{identity} has rows of {row / 1e6:,.0f} MB; they may have {LARGEST_PIECE / 1e6:,.0f}"
            )
        self._pixels, self._lock = pixels, threading.Lock()

    def raw(self, rows: Span) -> NDArray[Any]:
        """Rows (rows, W, C) as they are stored; `UnreadableImageError` if the file is damaged."""
        with self._lock:  # readers share a file
            try:
                return self._pixels(rows.start, rows.stop)
            except Exception as error:  # damaged files raise whatever their reader runs into
                reason = " ".join(str(error).split()) or type(error).__name__
                raise UnreadableImageError(f"{self.identity}, rows {rows.start} to {rows.stop}: {reason}") from error

    def read(self, rows: Span, channels: int, dtype: Any = np.float32) -> NDArray[Any]:
        """Rows (rows, W, ``channels``) in [0, 1]; see `light`."""
        return self.light(self.raw(rows), channels, dtype)

    def light(self, raw: NDArray[Any], channels: int, dtype: Any = np.float32) -> NDArray[Any]:
        """Part of the image as it is stored, (rows, columns, C), as floats in [0, 1] of ``channels`` channels.

        Grey is repeated for three channels, and transparency laid over white, as for other images.
        """
        light = np.divide(raw, WHITE[self.dtype.kind](self.dtype), dtype=dtype)
        if channels == 3 and self.channels == 1:
            return np.repeat(light, 3, axis=2)
        if channels == 3 and self.channels == 4:
            opacity = light[..., 3:]
            return light[..., :3] * opacity + (1 - opacity)
        return light

    def check_channels(self, channels: int) -> None:
        """Refuse a model that takes another number of channels."""
        if self.channels != channels and not (channels == 3 and self.channels in (1, 4)):
            raise ValueError(
                f"{self.identity} has {self.channels} channels and the model takes {channels}; "
                f"choose channels, or create the model with in_chans={self.channels}"
            )


def open_large(source: str | Path | Any) -> LargeImage:
    """Open an image without reading it.

    Args:
        source: A TIFF (BigTIFF, OME-TIFF, GeoTIFF, of any layout), a Zarr array or OME-Zarr group, an .npy file, or
            another image file; or an array (H, W), (H, W, C) or (C, H, W) that gives rows when it is sliced.

    Raises:
        FileNotFoundError: If there is none.
        UnreadableImageError: If it is no image, or not of a kind that rows can be read of.
        ImportError: If a package that reads it is missing.
    """
    if not isinstance(source, (str, Path)):
        image = _of_array(source, f"array of {tuple(source.shape)}")
        image.identity += f" {_hash(image)}"  # or a job would go on with another array of that shape
        return image
    path = Path(source).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give an image")
    stat = path.stat()
    identity = f"{path.name} ({stat.st_size} bytes, {stat.st_mtime_ns})"
    if path.is_dir():
        return _open_zarr(path, identity)
    regular_file(path)
    if path.suffix.lower() == ".npy":
        try:
            array = np.lib.format.open_memmap(path, mode="r")  # which refuses objects
        except Exception as error:  # what is no array raises anything from EOFError to ValueError
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UnreadableImageError(f"{path} is no .npy file of numbers ({reason})") from error
        return _of_array(_Mapped(array), identity)
    if path.suffix.lower() == ".npz":
        raise UnreadableImageError(f"{path} is an archive of arrays; save the one that is meant as .npy")
    if path.suffix.lower() in TIFF:
        return _open_tiff(path, identity)
    return _open_other(path, identity)


def _open_tiff(path: Path, identity: str) -> LargeImage:
    try:
        import tifffile
        import zarr
    except ImportError as error:
        raise ImportError("large TIFF files need more packages; run: pip install 'convneur[large]'") from error
    try:
        with tifffile.TiffFile(path) as file:
            check_metadata(file, path)
            level = file.series[0]
            check_level(level)
            axes, shape = level.axes, level.shape
            is_plain = level.dataoffset is not None and level.keyframe.is_memmappable
        array: Any
        if is_plain:
            array = _Mapped(tifffile.memmap(path, series=0, level=0, mode="r"))
        else:
            store = tifffile.imread(path, aszarr=True, series=0, level=0)
            array = zarr.open(store, mode="r")
            weakref.finalize(array, store.close)  # or its file would be left open
    except Exception as error:  # damaged files raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImageError(f"{path} is no TIFF that can be read ({reason})") from error
    places = _meaning(axes, shape, path)
    if not is_plain:
        array = _in_pieces(array, places[0], path)
    return _of_array(array, identity, places)


def _open_zarr(path: Path, identity: str) -> LargeImage:
    try:
        import zarr
    except ImportError as error:
        raise ImportError("Zarr arrays need more packages; run: pip install 'convneur[large]'") from error
    folder, axes = zarr_image(path)
    try:
        array: Any = zarr.open_array(folder, mode="r")
    except Exception as error:  # of metadata that are no array's all the same
        raise UnreadableImageError(
            f"{folder} is no Zarr array that can be read ({' '.join(str(error).split())})"
        ) from error
    places = _guessed(array.shape, identity) if axes is None else _meaning(axes, array.shape, path)
    return _of_array(_in_pieces(array, places[0], path), identity, places)


def _open_other(path: Path, identity: str) -> LargeImage:
    """By libvips, where it is installed; whole, as any image, otherwise."""
    try:
        import pyvips
    except (ImportError, OSError):  # the package without the library
        try:
            whole = np.asarray(decode_image(path))
        except UnreadableImageError as error:
            told = f"{path}: {error}"
            if "megapixels" in told:
                told += "; store it as a tiled TIFF, or install libvips and pyvips, which read rows of such files"
            raise UnreadableImageError(told) from error
        return _of_array(whole, identity)
    try:
        image_format(path)  # libvips opens many more, some by other programs
        image: Any = pyvips.Image.new_from_file(str(path)).autorot()
    except (pyvips.Error, UnreadableImageError) as error:
        raise UnreadableImageError(f"{path}: {' '.join(str(error).split())}") from error

    def rows(start: int, stop: int) -> NDArray[Any]:
        return np.asarray(image.crop(0, start, image.width, stop - start).numpy()).reshape(
            stop - start, image.width, -1
        )

    return LargeImage(rows, image.height, image.width, image.bands, rows(0, 1).dtype, identity)


class _Mapped:
    """An array that lies in a file as it is. Each read maps what it needs: else pages stay with the process."""

    def __init__(self, array: Any) -> None:
        self.shape, self.dtype = array.shape, array.dtype
        self._file, self._offset = array.filename, array.offset
        self._order: Any = "C" if array.flags.c_contiguous else "F"

    def __getitem__(self, index: Any) -> NDArray[Any]:
        mapped: Any = np.memmap(self._file, self.dtype, "r", self._offset, self.shape, self._order)
        return np.array(mapped[index])


def _in_pieces(array: Any, row_axis: int, path: Path) -> Any:
    """What is compressed in one piece is read once: a row of it takes as long as all."""
    if array.chunks[row_axis] < array.shape[row_axis]:
        return array
    if array.nbytes > LARGEST_PIECE:
        raise UnreadableImageError(
            f"{path} is compressed in one piece of {array.nbytes / 1e9:.1f} GB; store it in tiles, or uncompressed"
        )
    return np.asarray(array[:])


def _meaning(axes: str, shape: tuple[int, ...], path: Path) -> tuple[int, int, int | None]:
    """Where rows, columns and channels are; other axes must have a length of 1, as far as anything is there."""
    for name, length in zip(axes, shape, strict=True):
        if name not in "YXSC" and length != 1:
            raise UnreadableImageError(f"{path} has the axes {axes} of {shape}; give an image without {name}")
    channels = [place for place, name in enumerate(axes) if name in "SC" and shape[place] > 1]
    if len(channels) > 1 or "Y" not in axes or "X" not in axes:
        raise UnreadableImageError(f"{path} has the axes {axes} of {shape}; give rows, columns and channels")
    return axes.index("Y"), axes.index("X"), channels[0] if channels else None


def _guessed(shape: tuple[int, ...], identity: str) -> tuple[int, int, int | None]:
    if len(shape) not in (2, 3) or not all(shape):
        raise UnreadableImageError(f"{identity} has the shape {shape}; give (H, W), (H, W, C) or (C, H, W)")
    front = len(shape) == 3 and shape[2] > MOST_CHANNELS
    return (0, 1, None) if len(shape) == 2 else (1, 2, 0) if front else (0, 1, 2)


def _hash(image: LargeImage) -> str:
    found = hashlib.sha256()
    for rows in spans(image.height, 256):
        found.update(np.ascontiguousarray(image.raw(rows)).tobytes())
    return found.hexdigest()[:16]


def _of_array(array: Any, identity: str, places: tuple[int, int, int | None] | None = None) -> LargeImage:
    shape = tuple(int(length) for length in array.shape)
    row, column, channel = places or _guessed(shape, identity)

    def rows(start: int, stop: int) -> NDArray[Any]:
        index: list[Any] = [0] * len(shape)
        index[row], index[column] = slice(start, stop), slice(None)
        if channel is not None:
            index[channel] = slice(None)
        part = np.asarray(array[tuple(index)])
        kept = [place for place in (row, column, channel) if place is not None]
        part = part.transpose(np.argsort(np.argsort(kept)).tolist())
        return part if channel is not None else part[..., None]

    count = 1 if channel is None else shape[channel]
    return LargeImage(rows, shape[row], shape[column], count, array.dtype, identity)
