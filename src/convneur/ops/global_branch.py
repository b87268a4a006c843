"""The global branch: a feature map as compact tokens, through the default memory, back to channels on the token grid.

    z       = down( pool(x) )                                       tokens
    c       = rms_norm( proj( memory( layer_norm(z - mean z) ) ) )  context
    gate    = up( c + rms_norm(z) )        shift = up_shift( c )

It has no formula of its own: it calls that of the memory (`convneur.ops.memory`). In inference PyTorch would take some
twenty small operations for one image; starting each takes as long as computing it. The kernel takes a tile of tokens
through all of it while the tile is in the cache.

Shape letters: B batch, C channels, H W pixels of the feature map, h w of the token grid, N = hw tokens, D memory width,
Z heads.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convneur.ops import memory
from convneur.ops._library import AVX512, FLOAT, FLOATS, INT, LANES, Operation, kernel_function

_OPTIONAL = (1, 10, 12, 13, 14)  # places of weights that may be None: three biases, token_gain and the shift
TILE = 128  # tokens of a tile at most, as in csrc/global_branch.c
TILES = 4  # of an image, for as many threads, unless it has more tokens: of smaller ones the sums are most of the work


def pool(x: Tensor, stride: int) -> Tensor:
    """Mean over ``stride`` pixels a side: (B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride))."""
    # A window over the edge is the mean of the pixels it holds, so any H and W will do.
    return F.avg_pool2d(x, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else x


def to_grid(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens (B, N, C) of a grid (h, w) as a feature map (B, C, h, w)."""
    return tokens.unflatten(1, grid).permute(0, 3, 1, 2)


def centred(tokens: Tensor) -> Tensor:
    """Tokens (B, N, C) less their mean over the image, which is exactly zero where all are the same.

    The mean of equal numbers is off by rounding, which the norms behind would raise to the size of the tokens.
    """
    shifted = tokens - tokens[:, :1]
    return shifted - shifted.mean(1, keepdim=True)


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """Of the channels (..., D), with a gain (D,) that follows their precision: under autocast PyTorch would warn."""
    return F.rms_norm(x, gain.shape, gain.to(x.dtype), eps)


def reference(
    x: Tensor,
    down: Tensor,
    down_bias: Tensor | None,
    norm_gain: Tensor,
    norm_bias: Tensor,
    keys: Tensor,
    values: Tensor,
    steps: Tensor,
    steps_bias: Tensor,
    proj: Tensor,
    gain: Tensor,
    token_gain: Tensor | None,
    up: Tensor,
    up_bias: Tensor | None,
    shift: Tensor | None,
    shift_bias: Tensor | None,
    stride: int,
    eps: float,
) -> list[Tensor]:
    """The formula, from the weights; `convneur.layers.GlobalBranch` is the same from modules.

    Args:
        x: (B, C, H, W).
        down: (D, C), to tokens.
        down_bias: (D,), or None.
        norm_gain: (D,), of the LayerNorm before the memory.
        norm_bias: (D,).
        keys: (D, D).
        values: (D, D).
        steps: (Z, D), one row for each head.
        steps_bias: (Z,).
        proj: (D, D), behind the memory.
        gain: (D,), of the norm of the context.
        token_gain: (D,), of the norm of the token that the gate sees; None if it does not.
        up: (C, D), to the gate.
        up_bias: (C,), or None.
        shift: (C, D), to the shift; None if there is none.
        shift_bias: (C,), or None.
        stride: Pixels per token along each side.
        eps: Of all norms.

    Returns:
        The gate's logits (B, C, h, w), and the shift (B, C, h, w) if there is one; channels last.
    """
    x, heads = pool(x, stride), len(steps)
    grid = (x.shape[2], x.shape[3])
    tokens = F.linear(x.permute(0, 2, 3, 1).flatten(1, 2), down, down_bias)
    normed = F.layer_norm(centred(tokens), norm_gain.shape, norm_gain, norm_bias, eps)
    answers, _ = memory.reference(
        memory.split_heads(F.linear(normed, keys), heads),
        memory.split_heads(F.linear(normed, values), heads),
        memory.split_heads(F.linear(normed, steps, steps_bias).sigmoid(), heads),
    )
    context = rms_norm(F.linear(answers.transpose(1, 2).flatten(2), proj), gain, eps)
    seen = context if token_gain is None else context + rms_norm(tokens, token_gain, eps)
    gate = to_grid(F.linear(seen, up, up_bias), grid)
    return [gate] if shift is None else [gate, to_grid(F.linear(context, shift, shift_bias), grid)]


class _Arguments(ctypes.Structure):
    """As in csrc/global_branch.c."""

    _fields_ = (
        *((name, FLOATS) for name in "x down down_bias norm_gain norm_bias keys values steps steps_bias".split()),
        *((name, FLOATS) for name in "proj gain token_gain up up_bias shift shift_bias".split()),
        *((name, FLOATS) for name in "gates shifts workspace".split()),
        *((name, INT) for name in "batch height width channels stride grid_height grid_width memory_width".split()),
        *((name, INT) for name in "heads tiles threads".split()),
        *((name, FLOAT) for name in "sharpness eps".split()),
    )


def _kernel(x: Tensor, *args: Any) -> list[Tensor]:
    weights, (stride, eps) = args[:-2], args[-2:]
    (batch, channels, height, across), (width, heads) = x.shape, (len(weights[0]), len(weights[6]))
    grid, shift = (-(-height // stride), -(-across // stride)), weights[13]
    # Not by the batch, so that an image's answer is the same to the last bit with others and without.
    vectors = -(-grid[0] * grid[1] // LANES)
    tiles = max(-(-vectors * LANES // TILE), min(vectors, torch.get_num_threads(), TILES))
    row, tasks = TILE + LANES, batch * tiles
    threads = min(torch.get_num_threads(), tasks)
    head = width // heads
    per_thread = 2 * max(channels, 2 * width) * row
    workspace = x.new_empty(
        tasks * (2 * width * row + width * (head + 3)) + batch * width * head + threads * per_thread
    )
    gate = x.new_empty(batch, *grid, channels)
    shifts = None if shift is None else torch.empty_like(gate)
    arguments = _Arguments(
        *[None if array is None else array.data_ptr() for array in (x, *weights, gate, shifts, workspace)],
        *(batch, height, across, channels, stride, *grid, width),
        *(heads, tiles, threads),
        *(memory.SHARPNESS, eps),
    )
    _FUNCTION(ctypes.byref(arguments))
    outputs = [gate.permute(0, 3, 1, 2)]
    return outputs if shifts is None else [*outputs, shifts.permute(0, 3, 1, 2)]


def _suits(x: Tensor, *args: Any) -> str | None:
    weights = args[:15]
    if x.ndim != 4 or not x.is_contiguous(memory_format=torch.channels_last):
        return "the feature map is not channels-last"
    for place, weight in enumerate(weights):
        if weight is None and place not in _OPTIONAL:
            return "a weight is missing"
    (width, channels), heads = weights[0].shape, len(weights[6])
    shapes = [
        *((width, channels), (width,), (width,), (width,), (width, width), (width, width), (heads, width), (heads,)),
        *((width, width), (width,), (width,), (channels, width), (channels,), (channels, width), (channels,)),
    ]
    if x.shape[1] != channels or width % heads:
        return "shapes do not fit"
    for weight, shape in zip(weights, shapes, strict=True):
        if weight is not None and (weight.shape != shape or not weight.is_contiguous()):
            return "shapes do not fit, or a weight is not contiguous"
    return None


_FUNCTION = kernel_function(f"convneur_global_branch_{'avx512' if AVX512 else 'avx2'}", ctypes.POINTER(_Arguments))
global_branch = Operation(
    "global_branch(Tensor x, Tensor down, Tensor? down_bias, Tensor norm_gain, Tensor norm_bias, Tensor keys, "
    "Tensor values, Tensor steps, Tensor steps_bias, Tensor proj, Tensor gain, Tensor? token_gain, Tensor up, "
    "Tensor? up_bias, Tensor? shift, Tensor? shift_bias, int stride, float eps) -> Tensor[]",
    reference,
    _kernel,
    _suits,
)
