"""Image files as the RGB picture a person sees, whatever they are stored as; what cannot be read says why."""

from __future__ import annotations

import io
import math
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

from convneur.data.samples import LEFT_OUT, Samples, UnreadableImageError, Values, of_array, of_tiff
from convneur.data.tiff_files import open_tiff
from convneur.files import regular_file
from convneur.printing import Told

__all__ = ["MAX_PIXELS", "MAX_SIDE", "SUFFIXES", "UnreadableImageError", "decode_image", "open_image"]

MAX_PIXELS = 100_000_000
MAX_SIDE = 65_535  # pixels, which is what a JPEG can have; Pillow and resizing need memory for each row
THINNEST = 1000  # times as long as it is wide; models resize the shorter side
MAX_PIXEL_BYTES = 8  # of what is decoded at a time, over the pixels that an image may have: four channels of 16 bits
# Formats of images that people keep, by their names in Pillow, and how their files end. Containers that hold pictures
# larger than they say (ICO, ICNS, BLP, PSD), and what runs other programs (EPS), are none of them.
FORMATS = {
    "AVIF": (".avif",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "HEIF": (".heic", ".heif"),  # with pillow-heif; without it they are named, not passed over
    "JPEG": (".jfif", ".jpe", ".jpeg", ".jpg"),  # and several in one file, as phones write them
    "JPEG2000": (".j2k", ".jp2", ".jpx"),
    "PNG": (".png",),
    "PPM": (".pgm", ".pnm", ".ppm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
_HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
_STRIP = 1 << 22  # pixels that are converted at a time
MOST_SCANS = 200  # of a JPEG: each goes over all of the picture, and a few bytes are one
_SCAN = re.compile(rb"\xff\xda\0(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")  # how one begins
_WEBP = 50001  # compression of a TIFF
_BITS, _SAMPLES, _TILE_WIDTH, _TILE_LENGTH, _ROWS = 258, 277, 322, 323, 278  # tags of a TIFF


class TooLargeError(UnreadableImageError):
    """An image of more pixels than may be decoded at once."""


def decode_image(source: Path | str | bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode one image to 8-bit RGB.

    The camera's rotation (EXIF) is applied; declared transparency is laid over white; grey, palette, CMYK, Lab, 16-bit
    and floating-point images are converted, the latter by scaling, not by clipping. Of several images in a file, and of
    an animation, the first is taken.

    Args:
        source: A file, or the bytes of one.
        max_pixels: Images of more pixels are refused before they are decompressed.

    Raises:
        UnreadableImageError: If it cannot be read; one line that says why.
    """
    with open_image(source, max_pixels) as image:
        check_scans(image)
        if image.format == "TIFF":
            samples = of_tiff(image.tag_v2.get)  # type: ignore[attr-defined]
            samples.check_colours()
            if samples.note:
                warnings.warn(samples.note, Told, stacklevel=1)  # once, wherever images are read
            if not _pillow_reads(image, samples):
                return _by_tifffile(image, max_pixels)
        return as_seen(image)


@contextmanager
def open_image(source: Path | str | bytes, max_pixels: int = MAX_PIXELS) -> Iterator[ImageFile.ImageFile]:
    """An image of one of `FORMATS` that is not decoded yet, and may be: it is not too large.

    Args:
        source: A file, or the bytes of one.
        max_pixels: Images of more pixels are refused; those of a side above `MAX_SIDE`, too.

    Raises:
        UnreadableImageError: If it cannot be opened, or what is done with it fails; one line that says why.
    """
    try:
        with _Bytes(source) if isinstance(source, bytes) else regular_file(source).open("rb") as file:
            image = _identify(file)
            check_size(*image.size, max_pixels)
            if image.format == "TIFF" and (piece := _piece_bytes(image)) > MAX_PIXEL_BYTES * max_pixels:
                raise UnreadableImageError(f"its tiles or strips of {piece / 1e6:,.0f} MB are larger than the limit")
            yield image
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError(_empty(source) or "not an image, or of a format that is not known") from error
    except (MemoryError, OverflowError) as error:
        raise UnreadableImageError("decoding it takes more memory than there is") from error
    except Exception as error:  # damaged files raise anything from SyntaxError to struct.error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImageError(reason) from error


class _Bytes(io.BytesIO):
    """A file in memory, which nobody writes to."""

    def writable(self) -> bool:
        return False


def check_scans(image: ImageFile.ImageFile) -> None:
    """Refuse a JPEG whose decoding would take hours: a megabyte of scans goes over it tens of thousands of times."""
    file = image.fp
    if image.format not in ("JPEG", "MPO") or file is None:
        return
    place = file.tell()
    file.seek(0)
    rest, found = b"", 0
    while part := file.read(1 << 20):
        found += sum(1 for _ in _SCAN.finditer(rest + part))
        rest = (rest + part)[-4:]  # one byte less than what begins a scan
    file.seek(place)
    if found > MOST_SCANS:
        raise UnreadableImageError(f"it has {found:,} scans; a JPEG may have {MOST_SCANS}")


def image_format(path: Path) -> str:
    """Name of the format of an image file, of any size; an `UnreadableImageError` if it is none of `FORMATS`."""
    try:
        with regular_file(path).open("rb") as file:
            return str(_identify(file).format)
    except (UnidentifiedImageError, OSError) as error:
        raise UnreadableImageError(_empty(path) or "not an image, or of a format that is not known") from error


def _identify(file: IO[bytes]) -> ImageFile.ImageFile:
    """As `Image.open`, but without its limit of pixels: that is one for the process and all its threads, and ours may
    be larger."""
    Image.init()
    head = file.read(64)
    heif = _is_heif(head)
    if heif:
        _register_heif()
    for name in FORMATS:
        if name not in Image.OPEN or (name == "HEIF") != heif:  # AVIF is not in every Pillow
            continue
        factory, accept = Image.OPEN[name]
        factory = _Tiff if name == "TIFF" else factory
        accepted = accept is None or accept(head[:16])
        if accepted and not isinstance(accepted, str):  # which would say that Pillow was built without it
            file.seek(0)
            try:
                return factory(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error) as error:
                raise UnidentifiedImageError from error
    raise UnidentifiedImageError


def _is_heif(head: bytes) -> bool:
    """As the brands say; those of AVIF are in the same container."""
    brands = {head[place : place + 4] for place in range(8, min(int.from_bytes(head[:4], "big"), len(head)), 4)}
    return head[4:8] == b"ftyp" and bool(brands & _HEIF_BRANDS) and not brands & {b"avif", b"avis"}


def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError as error:
        raise UnreadableImageError("HEIC needs one more package; run: pip install 'convneur[heif]'") from error
    pillow_heif.register_heif_opener()


class _Tiff(TiffImagePlugin.TiffImageFile):
    """A TIFF of any kind; those that Pillow has no mode or decoder for have a size, and are decoded otherwise."""

    def _setup(self) -> None:
        try:
            super()._setup()
        except (SyntaxError, IndexError, KeyError):
            width, height = (int(self.tag_v2[tag]) for tag in (256, 257))
            self._mode, self.tile = "F", []
            self._size = (height, width) if self.tag_v2.get(274, 1) in (5, 6, 7, 8) else (width, height)


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse an image that is too large, long or thin to be worked on, with an `UnreadableImageError`."""
    if max(width, height) > MAX_SIDE:
        raise UnreadableImageError(f"{width} x {height} px is too long; a side may have {MAX_SIDE:,} px")
    if max(width, height) > THINNEST * min(width, height):
        raise UnreadableImageError(f"{width} x {height} px is too thin; one side may be {THINNEST:,} times the other")
    if width * height > max_pixels:
        raise TooLargeError(f"{width} x {height} px is more than the limit of {max_pixels / 1e6:g} megapixels")


def _piece_bytes(image: ImageFile.ImageFile) -> int:
    """Bytes of a tile, or else a strip, of a TIFF, which is decoded as a whole however small the picture is."""
    tags = getattr(image, "tag_v2")  # noqa: B009  which only this kind of image has

    def number(tag: int, default: int) -> int:
        value = tags.get(tag, default)
        return max(map(int, value if isinstance(value, tuple) else (value,)), default=default)

    width, height = image.size
    rows = min(number(_ROWS, height), height)
    pixels = number(_TILE_WIDTH, width) * number(_TILE_LENGTH, rows)
    return math.ceil(pixels * number(_SAMPLES, 1) * number(_BITS, 1) / 8)


def _empty(source: Path | str | bytes) -> str | None:
    empty = not source if isinstance(source, bytes) else Path(source).stat().st_size == 0
    return "the file is empty" if empty else None


def _pillow_reads(image: ImageFile.ImageFile, samples: Samples) -> bool:
    """Whether Pillow gives what the samples of a TIFF mean; it takes some kinds for others."""
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    extra, text = tags.get(338, ()), str(tags.get(270, ""))
    if (
        not image.tile
        or tags.get(259, 1) == _WEBP  # which few builds of Pillow have
        or samples.nodata is not None
        or samples.dtype.kind != "u"
        or samples.bits not in (1, 2, 4, 8, 16)
    ):
        return False
    if ("<OME" in text or text.startswith("ImageJ=")) and ("images=" in text or image.n_frames > 1):  # type: ignore[attr-defined]
        return False  # the first page may be one of several channels
    if len(extra) != samples.count - (4 if tags.get(262) == 5 else 1 if samples.colours in ("grey", "palette") else 3):
        return False  # Pillow takes a fourth sample for transparency that nothing says of it
    if samples.colours == "palette":
        return max(tags.get(320, (0,))) > 255
    if samples.colours == "ycbcr":
        return tags.get(259, 1) != 1
    deep_white = samples.bits == 16 and samples.inverted
    return samples.colours != "bands" and not samples.offset and not deep_white and not set(extra) - {0, 1, 2}


def _by_tifffile(image: ImageFile.ImageFile, max_pixels: int) -> Image.Image:
    assert image.fp is not None
    image.fp.seek(0)
    rows = open_tiff(image.fp)
    if max(rows.height, rows.width) > MAX_SIDE or rows.height * rows.width > max_pixels:
        raise UnreadableImageError(f"it says {image.width} x {image.height} px and has {rows.width} x {rows.height}")
    rows.samples.check_colours()
    seen = Image.new("RGB", (rows.width, rows.height))
    step = max(1, _STRIP // rows.width)
    for top in range(0, rows.height, step):
        light = rows.read((top, min(top + step, rows.height)), 3)
        seen.paste(Image.fromarray(_bytes(light)), (0, top))
    return seen


def _bytes(light: Values) -> Values:
    """Of colours in [0, 1]."""
    return np.asarray(np.rint(light * 255), np.uint8)


def as_seen(image: Any) -> Image.Image:
    """RGB; some rows at a time, or the steps on the way would take several times the memory of the image."""
    declared = image.size
    opaque = image.format == "JPEG2000" and image.mode in ("RGBA", "LA") and not _declares_alpha(image)
    if opaque:
        warnings.warn("of a JPEG 2000 " + LEFT_OUT, Told, stacklevel=1)
    _spread_transparency(image)
    image.load()
    if image.size != declared:
        raise UnreadableImageError(f"it says {declared[0]} x {declared[1]} px and has {image.width} x {image.height}")
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.convert("RGB")
    if image.mode == "F":
        return _floats(image)
    seen = Image.new("RGB", image.size)
    rows = max(1, _STRIP // image.width)
    strips = [(0, top, image.width, min(top + rows, image.height)) for top in range(0, image.height, rows)]
    for strip in strips:
        seen.paste(_convert(image.crop(strip), opaque), strip)
    return seen


def _floats(image: Image.Image) -> Image.Image:
    values = np.asarray(image)[..., None]
    samples = of_array(1, values.dtype)
    light = samples.shown(samples.filled(values), samples.measure([values]))
    return Image.fromarray(_bytes(light[..., 0])).convert("RGB")


def _spread_transparency(image: ImageFile.ImageFile) -> None:
    """Pillow spreads values of few bits over a byte, and takes the first byte of 16 bits, but not of what is clear."""
    clear = image.info.get("transparency")
    tiles = getattr(image, "tile", None)  # of a file alone
    mode = tiles[0].args if tiles else None
    if isinstance(clear, int) and mode in ("L;2", "L;4"):
        image.info["transparency"] = clear * (85 if mode == "L;2" else 17)
    elif isinstance(clear, tuple) and mode == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in clear)


def _declares_alpha(image: ImageFile.ImageFile) -> bool:
    """Whether a JPEG 2000 says that a component is transparency: its definition of channels has one of type 1."""
    assert image.fp is not None
    image.fp.seek(0)
    head = image.fp.read(1 << 16).partition(b"jp2c")[0]
    place = head.find(b"cdef") + 4
    if place < 4:
        return False
    entries = struct.iter_unpack(
        ">HHH", head[place + 2 : place + 2 + 6 * int.from_bytes(head[place : place + 2], "big")]
    )
    return any(kind == 1 for _, kind, _ in entries)


def _convert(image: Image.Image, opaque: bool) -> Image.Image:
    clear = image.info.get("transparency")
    if image.mode.startswith("I"):
        # 65535 is white; Pillow's own conversion would clip everything above 255 to white.
        values = np.asarray(image)
        grey = np.rint(np.clip(values, 0, 65535) / 257).astype(np.uint8)
        if isinstance(clear, int):
            grey[values == clear] = 255
        return Image.fromarray(grey).convert("RGB")
    if opaque:
        return image.convert("RGBA").convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or clear is not None:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image)
    return image.convert("RGB")
