"""The last step of a gated block: out = x + up(shift) + local * up(gate).

Gate and shift are on the token grid; ``up`` is bilinear and happens while the feature map is read once.

Shape letters: B batch, C channels, H W pixels of the feature map, h w of the token grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from convneur.ops._library import FLOATS, INT, Operation, kernel_function


def upsample(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation (B, C, h, w) -> (B, C, *size)."""
    return F.interpolate(grid, size=size, mode="bilinear", align_corners=False)


def modulate(local: Tensor, gate: Tensor, shift: Tensor | None, stride: int) -> Tensor:
    """What is added to x: ``up(shift) + local * up(gate)``, (B, C, H, W); arguments as for `reference`."""
    if stride > 1:
        size = (local.shape[2], local.shape[3])
        gate, shift = upsample(gate, size), None if shift is None else upsample(shift, size)
    return local * gate if shift is None else torch.addcmul(shift, local, gate)


def reference(x: Tensor, local: Tensor, gate: Tensor, shift: Tensor | None, stride: int) -> Tensor:
    """The formula.

    Args:
        x: (B, C, H, W).
        local: (B, C, H, W).
        gate: (B, C, h, w).
        shift: (B, C, h, w), or None for zeros.
        stride: Pixels of the feature map per token; with 1 there is nothing to upsample.

    Returns:
        (B, C, H, W).
    """
    return x + modulate(local, gate, shift, stride)


def _kernel(x: Tensor, local: Tensor, gate: Tensor, shift: Tensor | None, stride: int) -> Tensor:
    (batch, channels, height, width), (grid_height, grid_width) = x.shape, gate.shape[2:]
    threads = torch.get_num_threads()
    gate = gate.contiguous(memory_format=torch.channels_last)
    shift = None if shift is None else shift.contiguous(memory_format=torch.channels_last)
    out, workspace = torch.empty_like(x), x.new_empty(threads * 2 * grid_width * channels)
    _FUNCTION(
        *(x.data_ptr(), local.data_ptr(), gate.data_ptr(), None if shift is None else shift.data_ptr()),
        *(out.data_ptr(), workspace.data_ptr()),
        *(threads, batch, height, width, channels, grid_height, grid_width),
    )
    return out


def _suits(x: Tensor, local: Tensor, gate: Tensor, shift: Tensor | None, stride: int) -> str | None:
    if x.shape != local.shape or x.shape[:2] != gate.shape[:2] or (shift is not None and shift.shape != gate.shape):
        return "shapes do not fit"
    if stride == 1 and gate.shape[2:] != x.shape[2:]:
        return "there is nothing to upsample, and the grid is not the feature map's"
    if x.ndim != 4 or x.shape[1] % 8:
        return "channels are no multiple of 8"
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    if not (channels_last and local.is_contiguous(memory_format=torch.channels_last)):
        return "a feature map is not channels-last"
    return None


_FUNCTION = kernel_function("convneur_gated_residual", *[FLOATS] * 6, *[INT] * 7)
gated_residual = Operation(
    "gated_residual(Tensor x, Tensor local, Tensor gate, Tensor? shift, int stride) -> Tensor",
    reference,
    _kernel,
    _suits,
)
