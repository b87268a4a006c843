"""Which image sizes a model takes: many of timm's take one, or what a patch or window divides; only running tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

STEP = 32  # pixels a side: what most patches and windows divide


def why_not_size(model: nn.Module, size: Sequence[int]) -> Exception | None:
    """What a model says of a black image; None if it takes it.

    Args:
        model: In eval mode.
        size: Channels, height and width.
    """
    device = next((each.device for each in model.parameters()), None)
    try:
        with torch.inference_mode():
            model(torch.zeros(1, *size, device=device))
    except Exception as error:  # whatever models raise: assertions, shapes that do not fit
        return error
    return None


def require_size(model: nn.Module, name: str, size: Sequence[int], own: Sequence[int]) -> None:
    """Refuse a size that people ask for and a model does not take.

    Args:
        model: In eval mode.
        name: Of the model, for the message.
        size: Channels, height and width.
        own: What the model was made for.

    Raises:
        ValueError: If the model does not take it, with sizes that it takes.
    """
    error = why_not_size(model, size)
    if error is None:
        return
    if isinstance(error, ValueError):  # ours, which says what to do
        raise error
    channels, *sides = size
    near = nearest(lambda side: why_not_size(model, (channels, side, side)) is None, sides[0])
    near = [side for side in near if (side, side) != tuple(own[1:])]
    others = f"give --image-size {either(near)}, or " if near else ""
    raise ValueError(
        f"{name} takes no images of {pixels(size)} px ({reason(error)}); {others}leave --image-size out for the "
        f"{pixels(own)} px that it is made for"
    ) from error


def nearest(takes: Callable[[int], bool], side: int) -> list[int]:
    """Of the multiples of `STEP` next to a size those that a model takes, ascending."""
    below = side // STEP * STEP
    return [each for each in (below, below + STEP) if each and takes(each)]


def either(sides: Sequence[int]) -> str:
    """Sizes to choose from: ``96, 128 or 224``."""
    *first, last = map(str, sides)
    return f"{', '.join(first)} or {last}" if first else last


def pixels(size: Sequence[int]) -> str:
    """Channels, height and width as people write the latter two: ``64`` of a square, else ``240x320``."""
    _, height, width = size
    return str(height) if height == width else f"{height}x{width}"


def reason(error: Exception) -> str:
    """What an error says, in one line; its name if it says nothing."""
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
