"""TIFFs of any layout, by tifffile: what they say of themselves is checked before anything of them is decoded."""

from __future__ import annotations

import math
import struct
import sys
import weakref
import xml.etree.ElementTree as ET
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from convneur.data.paths import inside
from convneur.data.rasters import Axes, LargeImage, in_pieces, of_array
from convneur.data.samples import UnreadableImageError, Values, of_tiff

LARGEST_TILE = 2**29  # bytes, decoded
MOST_PLANES = 1_000_000
JPEG, JPEG_2000 = frozenset((6, 7, 33007, 34892)), frozenset((33003, 33004, 33005, 34712))
# Compressions that are read: none, CCITT, LZW, Deflate, PackBits, LERC, LZMA, WebP, Zstandard. Others write as much
# as a file asks for.
COMPRESSIONS = JPEG | JPEG_2000 | {1, 2, 3, 4, 5, 8, 32773, 32946, 34887, 34925, 34926, 34927, 50000, 50001}
_FRAMES = frozenset((0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF))
_HEAD = 4096  # bytes, in which the size of a compressed tile stands but for long profiles


def open_tiff(source: Path | IO[bytes], fill: float | None = None) -> LargeImage:
    """Open the first image of a TIFF without reading it.

    Args:
        source: Its path, or an open file that stays open.
        fill: What takes the place of missing pixels, which are refused otherwise.

    Raises:
        UnreadableImageError: If it is damaged, does not say what it shows, or rows of it cannot be read.
        ImportError: If a package that reads it is missing.
    """
    zarr = import_zarr("this kind of TIFF")
    try:
        import tifffile
    except ImportError as error:
        raise ImportError("this kind of TIFF needs more packages; run: pip install 'convneur[large]'") from error
    file: Any = None
    try:
        file = tifffile.TiffFile(source)
        check_metadata(file, source if isinstance(source, Path) else Path("image.tif"))
        level = _first(file)
        check_level(level)
        page = level.keyframe
        axes = find_axes(level.axes, level.shape).turned(int(page.tags.valueof(274) or 1))
        count = 1 if axes.sample is None else level.shape[axes.sample]
        kind = np.dtype(np.uint8) if level.dtype == bool else np.dtype(level.dtype)
        samples = of_tiff(page.tags.valueof, count, kind)
        if isinstance(source, Path) and (offset := getattr(level, "dataoffset", None)) and page.is_memmappable:
            dtype = np.dtype(level.dtype).newbyteorder(file.byteorder)
            mapped = Mapped(source, dtype, offset, level.shape)
            file.close()
            return of_array(mapped, axes, samples, fill)
        store = level.aszarr() if level is page else level.aszarr(level=0)
        array: Any = zarr.open(store, mode="r")
        array = in_pieces(array, axes.row)
        if isinstance(source, Path):
            weakref.finalize(array, file.close)
        return of_array(array, axes, samples, fill)
    except Exception as error:  # damaged files raise anything
        if file is not None and isinstance(source, Path):
            file.close()
        reason = " ".join(str(error).split()) or type(error).__name__
        told = reason if isinstance(error, UnreadableImageError) else f"it is no TIFF that can be read ({reason})"
        raise UnreadableImageError(told) from error


def import_zarr(what: str) -> Any:
    """The package zarr, for what needs it.

    Raises:
        ImportError: If it is missing, or older than version 3.
    """
    found: Any = None
    with suppress(ImportError):
        import zarr

        found = zarr
    if found is None or int(found.__version__.partition(".")[0]) < 3:
        python = "" if sys.version_info >= (3, 11) else "use Python 3.11 or later, which zarr 3 needs, and "
        raise ImportError(f"{what} needs more packages; {python}run: pip install 'convneur[large]'")
    return found


def _first(file: Any) -> Any:
    """The first image in its best resolution; of pages that nothing says belong together the first."""
    level = file.series[0].levels[0]
    loose = set(level.axes) - set("YXSCZT")
    return file.pages.first if loose and file.series[0].kind in ("generic", "uniform", "shaped") else level


def find_axes(axes: str, shape: tuple[int, ...]) -> Axes:
    """Where rows, columns and samples are; other axes must have a length of 1, as far as anything is there."""
    for name, length in zip(axes, shape, strict=True):
        if name not in "YXSC" and length != 1:
            raise UnreadableImageError(f"it has the axes {axes} of {shape}; give an image without {name}")
    samples = [place for place, name in enumerate(axes) if name in "SC" and shape[place] > 1]
    if len(samples) > 1 or "Y" not in axes or "X" not in axes:
        raise UnreadableImageError(f"it has the axes {axes} of {shape}; give rows, columns and channels")
    return Axes(axes.index("Y"), axes.index("X"), samples[0] if samples else None)


class Mapped:
    """An array that lies in a file as it is. Each read maps what it needs: else pages stay with the process."""

    def __init__(
        self, path: Path, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...], fortran: bool = False
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self._path, self._offset, self._order = path, offset, "F" if fortran else "C"

    def __getitem__(self, index: Any) -> Values:
        order: Any = self._order
        mapped: Any = np.memmap(self._path, self.dtype, "r", self._offset, self.shape, order)
        return np.array(mapped[index])


def check_metadata(file: Any, path: Path) -> None:
    """Refuse OME metadata that name files elsewhere, or more planes than there can be.

    Args:
        file: A `tifffile.TiffFile`, of which no series was looked at.
        path: Of the file.

    Raises:
        ValueError: In one line.
    """
    text = file.ome_metadata if file.is_ome else None
    if text is None:
        return
    try:
        elements = list(ET.fromstring(text).iter())
    except ET.ParseError:
        return  # it is read as any TIFF then
    for element in elements:
        if name := element.get("FileName"):
            inside(path.parent, name)
        sizes = [int(value) for key, value in element.attrib.items() if key in ("SizeC", "SizeZ", "SizeT")]
        planes = [int(value) for key, value in element.attrib.items() if key in ("IFD", "PlaneCount", "NumPlanes")]
        pixels = int(element.get("SizeX", 1)) * int(element.get("SizeY", 1)) * math.prod(sizes)
        planes += [math.prod(sizes), pixels // max(1, file.pages[0].size)]
        if not all(0 <= count <= MOST_PLANES for count in planes):
            raise ValueError(f"its OME metadata tell of {max(map(abs, planes)):,} planes")


def check_level(level: Any) -> None:
    """Refuse tiles or strips that take more than `LARGEST_TILE` bytes, as the file says or as they say themselves.

    Args:
        level: A `tifffile.TiffPageSeries`.

    Raises:
        ValueError: In one line.
    """
    page = level.keyframe
    if page.compression not in COMPRESSIONS:
        raise ValueError(f"its compression {page.compression} is none that is read; store it with Deflate or LZW")
    size = math.prod(page.chunks) * page.dtype.itemsize
    if size > LARGEST_TILE:
        raise ValueError(f"its tiles or strips take {size / 1e6:,.0f} MB; they may take {LARGEST_TILE / 1e6:,.0f}")
    if page.compression in JPEG | JPEG_2000 and not page.is_ndpi:  # which has one JPEG, and tifffile cuts it
        for plane in level.pages:
            if plane is not None:
                _check_segments(plane, page.compression)


def _check_segments(plane: Any, compression: int) -> None:
    file = plane.parent.filehandle
    for offset, count in zip(plane.dataoffsets, plane.databytecounts, strict=True):
        if not count:
            continue
        for length in (min(count, _HEAD), count):
            file.seek(offset)
            head = file.read(min(length, LARGEST_TILE))
            size = _jpeg_size(head) if compression in JPEG else _jpeg_2000_size(head)
            if size is not None:
                break
        if size is None or math.prod(size) > LARGEST_TILE:
            told = "do not say their size" if size is None else f"say they have {size[0]} x {size[1]} px"
            raise ValueError(f"its compressed tiles or strips {told}")


def _jpeg_size(head: bytes) -> tuple[int, int, int] | None:
    """Width, height and components, of the marker that begins the frame."""
    place = 2
    while place + 10 <= len(head) and head[place] == 0xFF:
        marker = head[place + 1]
        if marker in _FRAMES:
            height, width, components = struct.unpack(">HHB", head[place + 5 : place + 10])
            return width, height, components
        alone = marker in (0x01, 0xFF) or 0xD0 <= marker <= 0xD8
        place += (1 if marker == 0xFF else 2) if alone else 2 + int.from_bytes(head[place + 2 : place + 4], "big")
    return None


def _jpeg_2000_size(head: bytes) -> tuple[int, int, int] | None:
    """Width, height and bytes of a pixel, of the marker at the beginning of the codestream."""
    place = head.find(b"\xff\x4f\xff\x51")
    if place < 0 or len(head) < place + 42:
        return None
    width, height, left, top = struct.unpack(">4I", head[place + 8 : place + 24])
    return max(0, width - left), max(0, height - top), int.from_bytes(head[place + 40 : place + 42], "big") * 4
