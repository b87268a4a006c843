"""The global branch: a feature map as compact tokens, through the default memory, back to channels on the token grid.

    z       = down( pool(x) )                                       tokens
    c       = rms_norm( proj( memory( z - mean z ) ) )              context
    gate    = up( c + rms_norm(z) )        shift = up_shift( c )

It has no formula of its own: it calls that of the memory (`convneur.ops.memory`). In inference PyTorch would take some
twenty small operations for one image; starting each takes as long as computing it. The kernel takes a tile of tokens
through all of it while the tile is in the cache.

Shape letters: B batch, C channels, H W pixels of the feature map, h w of the token grid, N = hw tokens, D memory width,
R rates of a token.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convneur.ops import memory
from convneur.ops._library import AVX512, FLOAT, FLOATS, INT, LANES, Operation, kernel_function

_OPTIONAL = (1, 12, 14, 15, 16)  # places of weights that may be None: three biases, token_gain and the shift
TILE = 128  # tokens of a tile at most, as in csrc/global_branch.c
TILES = 4  # of an image, for as many threads, unless it has more tokens: of smaller ones the sums are most of the work


def pool(x: Tensor, stride: int) -> Tensor:
    """Mean over ``stride`` pixels a side: (B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride))."""
    # A window over the edge is the mean of the pixels it holds, so any H and W will do.
    return F.avg_pool2d(x, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else x


def to_grid(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens (B, N, C) of a grid (h, w) as a feature map (B, C, h, w)."""
    return tokens.unflatten(1, grid).permute(0, 3, 1, 2)


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """Of the channels (..., D), with a gain (D,) that follows their precision: under autocast PyTorch would warn."""
    return F.rms_norm(x, gain.shape, gain.to(x.dtype), eps)


def reference(
    x: Tensor,
    down: Tensor,
    down_bias: Tensor | None,
    store_gain: Tensor,
    keys: Tensor,
    values: Tensor,
    rates: Tensor,
    rates_bias: Tensor,
    initial: Tensor,
    retrieve_gain: Tensor,
    queries: Tensor,
    proj: Tensor,
    gain: Tensor,
    token_gain: Tensor | None,
    up: Tensor,
    up_bias: Tensor | None,
    shift: Tensor | None,
    shift_bias: Tensor | None,
    stride: int,
    center: bool,
    decay: bool,
    max_step: float,
    reference_length: int | None,
    eps: float,
) -> list[Tensor]:
    """The formula, from the weights; `convneur.layers.GlobalBranch` is the same from modules.

    Args:
        x: (B, C, H, W).
        down: (D, C), to tokens.
        down_bias: (D,), or None.
        store_gain: (D,), of the norm before the write.
        keys: (D, D).
        values: (D, D).
        rates: (R H, D), all heads of one rate after the other: steps first, decay last.
        rates_bias: (R H,).
        initial: M_0, (H, D / H, D / H).
        retrieve_gain: (D,), of the norm before the read.
        queries: (D, D).
        proj: (D, D), behind the memory.
        gain: (D,), of the norm of the context.
        token_gain: (D,), of the norm of the token that the gate sees; None if it does not.
        up: (C, D), to the gate.
        up_bias: (C,), or None.
        shift: (C, D), to the shift; None if there is none.
        shift_bias: (C,), or None.
        stride: Pixels per token along each side.
        center: Whether the mean of the tokens is taken off before they are written.
        decay: Whether a share of M_0 is forgotten.
        max_step: Upper bound of a token's step.
        reference_length: Tokens that an image writes as; None for a plain sum.
        eps: Of the norms.

    Returns:
        The gate's logits (B, C, h, w), and the shift (B, C, h, w) if there is one; channels last.
    """
    x, heads = pool(x, stride), initial.shape[0]
    grid, count = (x.shape[2], x.shape[3]), x.shape[2] * x.shape[3]
    tokens = F.linear(x.permute(0, 2, 3, 1).flatten(1, 2), down, down_bias)
    centred = tokens - tokens.mean(1, keepdim=True) if center else tokens
    stored, asking = rms_norm(centred, store_gain, eps), rms_norm(centred, retrieve_gain, eps)
    logits = F.linear(stored, rates, rates_bias)
    steps = max_step * logits[..., :heads].sigmoid()
    steps = steps if reference_length is None else steps * reference_length / count
    answers, _ = memory.reference(
        memory.split_heads(F.linear(asking, queries), heads),
        memory.unit_keys(memory.split_heads(F.linear(stored, keys), heads)),
        memory.split_heads(F.linear(stored, values), heads),
        memory.split_heads(steps, heads),
        initial,
        (-logits[..., -heads:].mean(1)).sigmoid()[..., None, None] if decay else None,
    )
    context = rms_norm(F.linear(answers.transpose(1, 2).flatten(2), proj), gain, eps)
    seen = context if token_gain is None else context + rms_norm(tokens, token_gain, eps)
    gate = to_grid(F.linear(seen, up, up_bias), grid)
    return [gate] if shift is None else [gate, to_grid(F.linear(context, shift, shift_bias), grid)]


class _Arguments(ctypes.Structure):
    """As in csrc/global_branch.c."""

    _fields_ = (
        *((name, FLOATS) for name in "x down down_bias store_gain keys values rates rates_bias initial".split()),
        *((name, FLOATS) for name in "retrieve_gain queries proj gain token_gain up up_bias shift shift_bias".split()),
        *((name, FLOATS) for name in "gates shifts workspace".split()),
        *((name, INT) for name in "batch height width channels stride grid_height grid_width memory_width".split()),
        *((name, INT) for name in "heads rate_rows center decay tiles threads".split()),
        *((name, FLOAT) for name in "step eps key_eps".split()),
    )


def _kernel(x: Tensor, *args: Any) -> list[Tensor]:
    weights, (stride, center, decay, max_step, reference_length, eps) = args[:-6], args[-6:]
    (batch, channels, height, across), (heads, head) = x.shape, weights[7].shape[:2]
    grid, width, shift = (-(-height // stride), -(-across // stride)), heads * head, weights[15]
    count = grid[0] * grid[1]
    # Not by the batch, so that an image's answer is the same to the last bit with others and without.
    vectors = -(-count // LANES)
    tiles = max(-(-vectors * LANES // TILE), min(vectors, torch.get_num_threads(), TILES))
    row, tasks = TILE + LANES, batch * tiles
    threads = min(torch.get_num_threads(), tasks)
    per_thread = 2 * (max(channels, 2 * width) + heads) * row
    workspace = x.new_empty(
        tasks * (2 * width * row + width + width * head + heads) + batch * width * head + threads * per_thread
    )
    gate = x.new_empty(batch, *grid, channels)
    shifts = None if shift is None else torch.empty_like(gate)
    arrays = (x, *weights, gate, shifts, workspace)
    step = 2 / head * (max_step if reference_length is None else max_step * (reference_length / count))
    arguments = _Arguments(
        *[None if array is None else array.data_ptr() for array in arrays],
        *(batch, height, across, channels, stride, *grid, width),
        *(heads, len(weights[5]), center, decay, tiles, threads),
        *(step, eps, memory.KEY_EPS),
    )
    _FUNCTION(ctypes.byref(arguments))
    outputs = [gate.permute(0, 3, 1, 2)]
    return outputs if shifts is None else [*outputs, shifts.permute(0, 3, 1, 2)]


def _suits(x: Tensor, *args: Any) -> str | None:
    weights, decay = args[:17], args[19]
    if x.ndim != 4 or not x.is_contiguous(memory_format=torch.channels_last):
        return "the feature map is not channels-last"
    for place, weight in enumerate(weights):
        if weight is None and place not in _OPTIONAL:
            return "a weight is missing"
    (width, channels), (heads, head, _) = weights[0].shape, weights[7].shape
    shapes = [
        *((width, channels), (width,), (width,), (width, width), (width, width)),
        *((len(weights[5]), width), (len(weights[5]),), (heads, head, head), (width,), (width, width), (width, width)),
        *((width,), (width,), (channels, width), (channels,), (channels, width), (channels,)),
    ]
    if x.shape[1] != channels or heads * head != width or len(weights[5]) < heads * (1 + decay):
        return "shapes do not fit"
    for weight, shape in zip(weights, shapes, strict=True):
        if weight is not None and (weight.shape != shape or not weight.is_contiguous()):
            return "shapes do not fit, or a weight is not contiguous"
    return None


_FUNCTION = kernel_function(f"convneur_global_branch_{'avx512' if AVX512 else 'avx2'}", ctypes.POINTER(_Arguments))
global_branch = Operation(
    "global_branch(Tensor x, Tensor down, Tensor? down_bias, Tensor store_gain, Tensor keys, Tensor values, "
    "Tensor rates, Tensor rates_bias, Tensor initial, Tensor retrieve_gain, Tensor queries, Tensor proj, Tensor gain, "
    "Tensor? token_gain, Tensor up, Tensor? up_bias, Tensor? shift, Tensor? shift_bias, int stride, bool center, "
    "bool decay, float max_step, int? reference_length, float eps) -> Tensor[]",
    reference,
    _kernel,
    _suits,
)
