"""Classes of the pixels of an image: whole or tile by tile, at several scales, mirrored.

Shape letters: K classes, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convneur.data.semantic.loading import normalised
from convneur.data.transforms import scale_to
from convneur_options.segmentation import Inference

SMALLEST = 32  # pixels a side; smaller images are enlarged to it


@dataclass(frozen=True)
class Tile:
    """A part of an image that is looked at, and the part of it that is answered; in pixels of the image."""

    rows: slice
    columns: slice
    answered_rows: slice
    answered_columns: slice

    def cut(self, scores: Tensor) -> Tensor:
        """What is answered, of (..., H, W) over what is looked at."""
        top, left = self.rows.start, self.columns.start
        rows = slice(self.answered_rows.start - top, self.answered_rows.stop - top)
        return scores[..., rows, self.answered_columns.start - left : self.answered_columns.stop - left]


def tiles(height: int, width: int, window: int, margin: int) -> Iterator[Tile]:
    """Tiles whose answers cover an image of H x W once; the whole image where it is not larger than a tile."""
    for rows, answered_rows in _spans(height, window, margin):
        for columns, answered_columns in _spans(width, window, margin):
            yield Tile(rows, columns, answered_rows, answered_columns)


def _spans(length: int, window: int, margin: int) -> Iterator[tuple[slice, slice]]:
    if length <= window:
        yield slice(0, length), slice(0, length)
        return
    step = window - 2 * margin
    count = -(-(length - window) // step) + 1
    starts = [min(number * step, length - window) for number in range(count)]
    begin = 0
    for number, start in enumerate(starts):
        end = length if number == count - 1 else start + window - margin
        yield slice(start, start + window), slice(begin, end)
        begin = end


@torch.inference_mode()
def check_inference(how: Inference) -> Inference:
    """The same; a ValueError for tiles that have no middle, and for sizes and scales that are none."""
    if how.window and how.window <= 2 * how.margin:
        raise ValueError(f"a tile of {how.window} px has nothing between margins of {how.margin} px; make it larger")
    if how.size < 0 or how.window < 0 or how.margin < 0 or not how.scales or min(how.scales) <= 0:
        raise ValueError("sizes, windows and margins are 0 or more, and there is a scale above 0")
    return how


def segment(model: nn.Module, pixels: Tensor, how: Inference, device: torch.device) -> Tensor:
    """Ask a model about an image.

    Args:
        model: In eval mode, on the device; normalised images (1, 3, H, W) -> logits (1, K, H, W).
        pixels: Bytes (3, H, W).
        how: See `convneur_options.segmentation.Inference`.
        device: To compute on.

    Returns:
        Classes (H, W), bytes, on the CPU.
    """
    height, width = pixels.shape[-2:]
    if how.window:
        scale = scale_to(how.size, height, width) if how.size else 1.0
        seen = pixels if scale == 1 else _resized_bytes(pixels, _scaled(height, width, scale))
        labels = torch.empty(seen.shape[-2:], dtype=torch.uint8)
        for tile in tiles(seen.shape[1], seen.shape[2], how.window, how.margin):
            scores = _probabilities(model, normalised(seen[:, tile.rows, tile.columns].to(device)), how, 1.0)
            labels[tile.answered_rows, tile.answered_columns] = tile.cut(scores).argmax(0).byte().cpu()
        if scale == 1:
            return labels
        return F.interpolate(labels[None, None].float(), (height, width), mode="nearest-exact")[0, 0].byte()
    scale = scale_to(how.size, height, width) if how.size else 1.0
    return _probabilities(model, normalised(pixels.to(device)), how, scale).argmax(0).byte().cpu()


def _probabilities(model: nn.Module, image: Tensor, how: Inference, scale: float) -> Tensor:
    """Of the classes (K, H, W) at the pixels of a normalised image (3, H, W), averaged over scales and mirrors."""
    height, width = image.shape[-2:]
    sums: Tensor | None = None
    for factor in how.scales:
        given = fitted(image, scale * factor)
        for mirrored in (False, True) if how.flip else (False,):
            scores = model(given.flip(3) if mirrored else given).float()
            scores = scores.flip(3) if mirrored else scores
            if given.shape[-2:] != image.shape[-2:]:
                scores = F.interpolate(scores, (height, width), mode="bilinear", align_corners=False)
            said = scores.softmax(1)[0]
            sums = said if sums is None else sums + said
    assert sums is not None
    return sums


def fitted(image: Tensor, scale: float) -> Tensor:
    """A normalised image (3, H, W) at another scale, as a batch (1, 3, H', W')."""
    size = _scaled(image.shape[1], image.shape[2], scale)
    if size == image.shape[1:]:
        return image[None]
    return F.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=True)


def _scaled(height: int, width: int, scale: float) -> tuple[int, int]:
    """Height and width at a scale, the shorter at least `SMALLEST`."""
    scale = max(scale, SMALLEST / min(height, width))
    return round(height * scale), round(width * scale)


def _resized_bytes(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    resized = F.interpolate(pixels[None].float(), size, mode="bilinear", align_corners=False, antialias=True)
    return resized[0].round().clamp(0, 255).byte()
