"""Images of any size, of which rows are read as they are needed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from convneur.data.samples import NO_COLOURS, Samples, Scale, UnreadableImageError, Values

LARGEST_PIECE = 2**29  # bytes, of what can be read only as a whole
_STRIP = 1 << 22  # samples that are looked at at a time


@dataclass(frozen=True)
class Axes:
    """Where rows, columns and samples are in an array, and how it is turned to be upright.

    Attributes:
        row: Number of the axis of rows, of the upright image.
        column: Likewise.
        sample: Likewise; None if there is none.
        flip_rows: The last row comes first.
        flip_columns: Likewise.
    """

    row: int
    column: int
    sample: int | None = None
    flip_rows: bool = False
    flip_columns: bool = False

    def turned(self, orientation: int) -> Axes:
        """As the orientation of EXIF and TIFF says, 1 to 8; others mean nothing."""
        if not 1 < orientation <= 8:
            return self
        flip_rows, flip_columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
        row, column = (self.column, self.row) if orientation > 4 else (self.row, self.column)
        return Axes(row, column, self.sample, flip_rows, flip_columns)


class LargeImage:
    """Rows of an image, on demand.

    Args:
        pixels: Gives rows start to stop as (rows, W, C) of any kind of number.
        height: H.
        width: W.
        samples: What they mean.
        fill: What takes the place of missing pixels, which are refused otherwise.

    Attributes:
        named: What it is called in errors; empty where the caller says it.
        identity: What tells this image from others.
    """

    named = identity = ""

    def __init__(
        self,
        pixels: Callable[[int, int], Values],
        height: int,
        width: int,
        samples: Samples,
        fill: float | None = None,
    ) -> None:
        self.height, self.width, self.samples, self.fill = height, width, samples, fill
        self.channels, self.dtype = samples.count, samples.dtype
        if (row := width * samples.count * samples.dtype.itemsize) > LARGEST_PIECE:
            raise self._error(f"its rows take {row / 1e6:,.0f} MB; they may take {LARGEST_PIECE / 1e6:,.0f}")
        self._pixels, self._lock, self._measuring = pixels, threading.Lock(), threading.Lock()
        self._scale: Scale | None = samples.declared

    def _error(self, reason: str) -> UnreadableImageError:
        told = reason if not self.named or reason.startswith(self.named) else f"{self.named}: {reason}"
        return UnreadableImageError(told)

    def raw(self, rows: tuple[int, int]) -> Values:
        """Rows from one to another (rows, W, C) as they are stored, missing pixels filled.

        Raises:
            UnreadableImageError: If the file is damaged, or pixels are missing and there is nothing to fill them with.
        """
        start, stop = rows
        with self._lock:  # readers share a file
            try:
                return self.samples.filled(self._pixels(start, stop), self.fill, start)
            except UnreadableImageError as error:
                raise self._error(str(error)) from error
            except Exception as error:  # damaged files raise whatever their reader runs into
                reason = " ".join(str(error).split()) or type(error).__name__
                raise self._error(f"rows {start} to {stop}: {reason}") from error

    @property
    def scale(self) -> Scale:
        """The value of white; of numbers whose type does not say it, all of the image is looked at once."""
        with self._measuring:
            if self._scale is None:
                step = max(1, _STRIP // (self.width * self.channels))
                parts = (self.raw((top, min(top + step, self.height))) for top in range(0, self.height, step))
                try:
                    self._scale = self.samples.measure(parts)
                except UnreadableImageError as error:
                    raise self._error(str(error)) from error
            return self._scale

    def read(self, rows: tuple[int, int], channels: int, dtype: Any = np.float32) -> Values:
        """Rows (rows, W, ``channels``) in [0, 1]; see `light`."""
        return self.light(self.raw(rows), channels, dtype)

    def light(self, raw: Values, channels: int, dtype: Any = np.float32) -> Values:
        """Part of the image as `raw` gives it, (rows, columns, C), as floats in [0, 1] of ``channels`` channels.

        Colours, and grey repeated, for three channels, over white where they are transparent; what is stored for a
        model that takes all samples.
        """
        grey = self.samples.colours == "grey" and channels == 1
        if self.samples.colours != "bands" and (channels == 3 or grey):
            try:
                shown = self.samples.shown(raw, self.scale, dtype)
            except UnreadableImageError as error:
                raise self._error(str(error)) from error
            return np.repeat(shown, 3, axis=2) if channels == 3 and shown.shape[2] == 1 else shown
        if self.channels != channels:
            self.check_channels(channels)
        return np.divide(raw, self.scale.white, dtype=dtype)

    def check_channels(self, channels: int) -> None:
        """Refuse a model that takes another number of channels, or colours where there is no word of them."""
        colours = self.samples.colours
        if (channels == 3 and colours != "bands") or (channels == 1 and colours == "grey"):
            return
        told, fix = f"has {self.channels} channels and the model takes {channels}", "choose channels"
        if channels == 3:
            told, fix = f"{told}; {NO_COLOURS}", "store those that are red, green and blue as RGB"
        if channels == 3 or self.channels != channels:
            raise UnreadableImageError(
                f"{self.named or 'it'} {told}; {fix}, or create the model with in_chans={self.channels}"
            )


def of_array(array: Any, axes: Axes, samples: Samples, fill: float | None = None) -> LargeImage:
    """An image of what gives parts of itself when it is sliced."""
    shape = tuple(int(length) for length in array.shape)
    height, width = shape[axes.row], shape[axes.column]

    def rows(start: int, stop: int) -> Values:
        index: list[Any] = [0] * len(shape)
        stored = slice(height - stop, height - start) if axes.flip_rows else slice(start, stop)
        index[axes.row], index[axes.column] = stored, slice(None)
        if axes.sample is not None:
            index[axes.sample] = slice(None)
        part = np.asarray(array[tuple(index)])
        kept = [axes.row, axes.column, *([] if axes.sample is None else [axes.sample])]
        part = part.transpose(np.argsort(np.argsort(kept)).tolist())
        part = part if axes.sample is not None else part[..., None]
        part = part[:: -1 if axes.flip_rows else 1, :: -1 if axes.flip_columns else 1]
        return part.view(np.uint8) if part.dtype == bool else part

    return LargeImage(rows, height, width, samples, fill)


def in_pieces(array: Any, row_axis: int) -> Any:
    """What is compressed in one piece is read once: a row of it takes as long as all.

    Raises:
        UnreadableImageError: If it is large, or damaged.
    """
    if array.chunks[row_axis] < array.shape[row_axis]:
        return array
    if array.nbytes > LARGEST_PIECE:
        raise UnreadableImageError(
            f"it is compressed in one piece of {array.nbytes / 1e9:.1f} GB; store it in tiles, or uncompressed"
        )
    try:
        return np.asarray(array[:])
    except Exception as error:  # damaged files raise whatever their reader runs into
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImageError(f"it is damaged ({reason})") from error
