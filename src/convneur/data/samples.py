"""What the numbers of a pixel mean, and how they become red, green and blue as a person sees them.

Files of every sort and arrays go through here, so that every command sees the same picture. What a file does not say
is not guessed: transparency counts only where it is declared, and several bands are colours only where they are said
to be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

Values = npt.NDArray[Any]
Colours = Literal["grey", "rgb", "palette", "cmyk", "ycbcr", "lab", "bands"]
COUNTS = {"grey": 1, "rgb": 3, "palette": 1, "cmyk": 4, "ycbcr": 3, "lab": 3}  # samples that are colours
WHITES = {1.0: 0.0, 255.0: 1.0, 65535.0: 255.0}  # of numbers whose type does not say it, and the one before each
CLEARLY = 16  # times the white before must be exceeded, or it could be that one with some values above it
ROUNDING = 1e-3  # of white, by which resampled values may be below black or above white
# TIFF 6.0: photometric interpretation, extra samples
_PHOTOMETRIC: dict[int, Colours] = {
    0: "grey",
    1: "grey",
    2: "rgb",
    3: "palette",
    5: "cmyk",
    6: "ycbcr",
    8: "lab",
    9: "lab",
}
NO_COLOURS = "nothing says that they are colours"
LEFT_OUT = "the fourth sample of a pixel is left out: nothing says that it is transparency"
_PREMULTIPLIED, _ALPHA = 1, 2
_OLD_JPEG, _APERIO_YCBCR, _JPEG = 6, 33003, frozenset((6, 7, 33007, 34892))
_NODATA = 42113  # GDAL


class UnreadableImageError(ValueError):
    """A file that is no image, is damaged, is too large to be opened safely, or does not say what it shows."""


class Scale(NamedTuple):
    """The values of white, and of what hides what is behind it."""

    white: float
    opaque: float


@dataclass(frozen=True)
class Samples:
    """What the samples of a pixel mean.

    Attributes:
        colours: What the first of them are; ``bands`` where nothing says that they are colours.
        count: Samples of a pixel.
        dtype: Kind of number.
        bits: Of a sample, of which all set is white.
        inverted: The least is white.
        alpha: Place of the sample that says how opaque a pixel is.
        premultiplied: Colours were multiplied by it.
        offset: ``a`` and ``b`` of Lab are stored with 128 added.
        palette: (N, 3) bytes.
        nodata: The value of pixels that are missing.
        left_out: Samples that are none of this, of a file that says which are colours.
    """

    colours: Colours
    count: int
    dtype: np.dtype[Any]
    bits: int
    inverted: bool = False
    alpha: int | None = None
    premultiplied: bool = False
    offset: bool = False
    palette: Values | None = None
    nodata: float | None = None
    left_out: int = 0

    def __post_init__(self) -> None:
        if self.dtype.kind not in "uif":
            raise UnreadableImageError(f"it holds numbers of the kind {self.dtype}; store it as integers or floats")
        if self.colours != "bands" and self.count < COUNTS[self.colours]:
            raise UnreadableImageError(f"it says {self.colours} and has {self.count} samples a pixel")
        if self.colours in ("palette", "lab", "ycbcr") and (self.dtype.kind != "u" or self.bits > 8):
            raise UnreadableImageError(f"its {self.colours} samples are not of 8 bits; store it as RGB")
        if self.premultiplied and (self.inverted or self.colours not in ("grey", "rgb")):
            raise UnreadableImageError(f"its {self.colours} samples are premultiplied by transparency; store it as RGB")

    @property
    def note(self) -> str:
        """A word about samples that are not looked at; empty if there are none."""
        if not self.left_out:
            return ""
        return f"of an image that says {self.colours} " + (
            LEFT_OUT if self.count == 4 else f"{self.left_out} samples of a pixel are left out"
        )

    def check_colours(self) -> None:
        """Refuse bands; `UnreadableImageError`."""
        if self.colours == "bands":
            raise UnreadableImageError(
                f"it has {self.count} channels; {NO_COLOURS}; store those that are red, green and blue as RGB"
            )

    @property
    def meaning(self) -> list[Any]:
        """What a result depends on beside the numbers, for JSON."""
        return [self.colours, self.inverted, self.alpha, self.premultiplied]

    @property
    def declared(self) -> Scale | None:
        """The scale, where the kind of number says it: unsigned integers of up to 16 bits."""
        if self.dtype.kind == "u" and self.bits <= 16:
            white = float(2**self.bits - 1)
            return Scale(white, white)
        return None

    def measure(self, parts: Iterable[Values]) -> Scale:
        """The scale of an image, of all its parts (..., C) without missing pixels.

        Raises:
            UnreadableImageError: If its values do not tell.
        """
        if self.declared is not None:
            return self.declared
        least, most = np.zeros(self.count), np.zeros(self.count)
        for part in parts:
            flat = part.reshape(-1, self.count)
            least, most = np.minimum(least, flat.min(0)), np.maximum(most, flat.max(0))
        shown = [place for place in range(self.count) if self.colours == "bands" or place < COUNTS[self.colours]]
        shown = [place for place in shown if place != self.alpha]
        white = self._white(float(least[shown].min()), float(most[shown].max()))
        opaque = white if self.alpha is None else self._white(float(least[self.alpha]), float(most[self.alpha]))
        return Scale(white, opaque)

    def _white(self, least: float, most: float) -> float:
        whites = dict(WHITES)
        if self.dtype.kind != "f":
            top = float(np.iinfo(self.dtype).max)
            whites = {white: before for white, before in whites.items() if 1 < white <= top}
        if self.dtype.kind == "u":
            whites[top] = 65535.0
        if least == most == 0 and whites:  # black on any scale
            return next(iter(whites))
        for white, before in whites.items():
            if most > CLEARLY * before and most <= white * (1 + ROUNDING) and least >= -white * ROUNDING:
                return white
        known = ", ".join(f"{white:.0f}" for white in whites) or "those that are known"
        raise UnreadableImageError(
            f"its values ({self.dtype}) go from {least:.6g} to {most:.6g}, and white is none of {known} for certain; "
            "scale it, or store it as unsigned 8 or 16 bits"
        )

    def filled(self, raw: Values, fill: float | None = None, top: int = 0) -> Values:
        """Samples (rows, W, C) of which none is missing.

        Args:
            raw: As stored.
            fill: What takes the place of missing ones.
            top: Row of the image that is the first of ``raw``.

        Raises:
            UnreadableImageError: If some are missing and there is no ``fill``; it says where the first is.
        """
        missing = self._missing(raw)
        if missing is None or not missing.any():
            return raw
        if fill is None:
            row, column, sample = np.argwhere(missing)[0]
            raise UnreadableImageError(
                f"the pixel in row {top + row}, column {column} is missing ({raw[row, column, sample]:g}); fill "
                "missing pixels in the file, or run: convneur stream --fill VALUE"
            )
        if not _holds(raw.dtype, fill):
            raise UnreadableImageError(f"missing pixels cannot be filled with {fill:g}, which is no {raw.dtype}")
        return np.where(missing, np.asarray(fill, raw.dtype), raw)

    def _missing(self, raw: Values) -> Values | None:
        missing = None
        if raw.dtype.kind == "f":
            missing = ~np.isfinite(raw)
            missing[..., self._unused()] = False
        if self.nodata is not None and _holds(raw.dtype, self.nodata):
            absent = raw == np.asarray(self.nodata, raw.dtype)
            if self.colours != "bands":  # black has samples of 0, too: a pixel is missing where all of its colours are
                absent = np.repeat(absent[..., : COUNTS[self.colours]].all(-1, keepdims=True), self.count, -1)
                absent[..., COUNTS[self.colours] :] = False
            missing = absent if missing is None else missing | absent
        return missing

    def _unused(self) -> list[int]:
        if self.colours == "bands":
            return []
        return [place for place in range(COUNTS[self.colours], self.count) if place != self.alpha]

    def shown(self, raw: Values, scale: Scale, dtype: Any = np.float32) -> Values:
        """Colours in [0, 1], over white where they are transparent.

        Args:
            raw: (rows, W, C), none of them missing.
            scale: See `measure`.
            dtype: Kind of float.

        Returns:
            (rows, W, 3); (rows, W, 1) of grey.
        """
        self.check_colours()
        colours = raw[..., : COUNTS[self.colours]]
        if self.colours in ("ycbcr", "lab"):
            light = np.divide(_by_pillow(colours, self.colours, self.offset), 255, dtype=dtype)
        elif self.colours == "palette":
            assert self.palette is not None
            if int(colours.max(initial=0)) >= len(self.palette):
                raise UnreadableImageError(f"a pixel has a colour beyond the {len(self.palette)} of its palette")
            light = np.divide(self.palette[colours[..., 0]], 255, dtype=dtype)
        else:
            light = np.clip(np.divide(colours, scale.white, dtype=dtype), 0, 1)
        if self.inverted:
            light = 1 - light
        if self.colours == "cmyk":
            light = (1 - light[..., :3]) * (1 - light[..., 3:])
        if self.alpha is None:
            return light
        opacity = np.clip(np.divide(raw[..., self.alpha, None], scale.opaque, dtype=dtype), 0, 1)
        over = light if self.premultiplied else light * opacity
        return np.minimum(over + (1 - opacity), 1)


def of_array(count: int, dtype: np.dtype[Any]) -> Samples:
    """What an array shows that says nothing of itself: grey, or red, green and blue; else bands."""
    colours: Colours = "grey" if count == 1 else "rgb" if count == 3 else "bands"
    return Samples(colours, count, dtype, 8 * dtype.itemsize)


def of_tiff(tag: Callable[[int], Any], count: int | None = None, dtype: np.dtype[Any] | None = None) -> Samples:
    """What the tags of a TIFF say of its samples.

    Args:
        tag: Gives the value of a tag by its number, or None.
        count: Samples of a pixel and
        dtype: their kind, where they are known from elsewhere.

    Raises:
        UnreadableImageError: If they are of a kind that is no picture, or it is not said which.
    """
    photometric, compression, extra = _number(tag(262), -1), _number(tag(259), 1), _numbers(tag(338))
    count = count or _number(tag(277), 3 if compression == _OLD_JPEG and photometric in (2, 6) else 1)
    bits = _numbers(tag(258)) or (1,)
    if len(set(bits)) > 1 or len(set(_numbers(tag(339)))) > 1:
        raise UnreadableImageError(f"its samples differ in kind ({bits} bits); store it with samples of one kind")
    if photometric not in _PHOTOMETRIC:
        what = (
            "does not say what its samples mean" if photometric < 0 else f"shows no colours (photometric {photometric})"
        )
        raise UnreadableImageError(f"it {what}; store it as RGB or grey")
    colours = _PHOTOMETRIC[photometric]
    if colours == "ycbcr" and compression in _JPEG:
        colours = "rgb"  # which decoding makes of it
    elif compression == _APERIO_YCBCR:  # whatever it says otherwise
        colours = "ycbcr"
    known = Samples(
        colours,
        count,
        dtype or _kind(_number(tag(339), 1), bits[0]),
        bits[0],
        inverted=photometric == 0,
        offset=photometric == 9,
        nodata=_nodata(tag(_NODATA)),
    )
    if known.colours == "cmyk" and _number(tag(332), 1) != 1:
        raise UnreadableImageError("its inks are not cyan, magenta, yellow and black; store it as RGB")
    kinds = {place: kind for place, kind in enumerate(extra, count - len(extra)) if kind in (_PREMULTIPLIED, _ALPHA)}
    alpha = min(kinds, default=None)
    if known.colours == "grey" and count - len(kinds) > 1:
        return replace(known, colours="bands", inverted=False)
    if known.colours == "palette":
        known = replace(known, palette=_palette(tag(320), bits[0]))
    beside = count - COUNTS[known.colours] - len(kinds)
    return replace(
        known,
        alpha=alpha,
        premultiplied=alpha is not None and kinds[alpha] == _PREMULTIPLIED,
        left_out=max(0, beside),
    )


def _kind(form: int, bits: int) -> np.dtype[Any]:
    size = 1 << max(0, math.ceil(math.log2(max(bits, 1) / 8)))
    kind = {1: "u", 2: "i", 3: "f", 4: "u"}.get(form, "c")
    if size > 8 or (kind == "f" and bits not in (16, 32, 64)) or kind == "c":
        raise UnreadableImageError(
            f"its samples of {bits} bits (format {form}) are no integers or floats that are read"
        )
    return np.dtype(f"{kind}{size}")


def _palette(values: Any, bits: int) -> Values:
    """Bytes (N, 3); some programs store bytes in the place of the 16 bits of TIFF."""
    found = np.asarray([] if values is None else values, np.int64).ravel()
    if found.size != 3 * 2**bits:
        raise UnreadableImageError(f"its palette has {found.size} numbers and should have {3 * 2**bits}")
    found = found if found.max() < 256 else found >> 8
    return np.clip(found, 0, 255).astype(np.uint8).reshape(3, -1).T


def _nodata(text: Any) -> float | None:
    """The value of missing pixels; NaN is missing without being declared."""
    if text is None:
        return None
    try:
        value = float(str(text).strip("\0 \n"))
    except ValueError as error:
        raise UnreadableImageError(f"its value of missing pixels, {str(text)[:40]!r}, is no number") from error
    return value if math.isfinite(value) else None


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    """Whether a kind of number has the value, but for rounding of floats."""
    if dtype.kind == "f":
        return abs(value) <= float(np.finfo(dtype).max)
    return float(value).is_integer() and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max


def _by_pillow(colours: Values, kind: str, offset: bool) -> Values:
    """Bytes (rows, W, 3) of Lab or YCbCr as RGB."""
    if offset:
        colours = colours ^ np.array([0, 128, 128], np.uint8)
    mode = {"lab": "LAB", "ycbcr": "YCbCr"}[kind]
    size = (colours.shape[1], colours.shape[0])
    return np.asarray(Image.frombytes(mode, size, colours.tobytes(), "raw", mode).convert("RGB"))


def _number(value: Any, default: int) -> int:
    return next(iter(_numbers(value)), default)


def _numbers(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(map(int, value)) if isinstance(value, (tuple, list, np.ndarray)) else (int(value),)
