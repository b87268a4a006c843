"""The mlp state in inference, by C (``kernels.c``) between its products: GELU with its slope, and all that has to do
with its LayerNorm, one pass each.

Shape letters: B batch, H heads, N tokens, D width of one head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from convneur.memory import library

NORM_EPS = 1e-5  # torch's and titans-pytorch's LayerNorm default


def serve(tokens: Tensor, weights: tuple[Tensor, ...], *others: Tensor) -> bool:
    """Whether these are what the kernels take: keys or queries (B, H, N, D), not in chunks, and what goes with them."""
    return tokens.ndim == 4 and all(w.ndim <= 4 for w in weights) and library.serve(tokens, *weights, *others)


def gelu(x: Tensor, with_slope: bool = False) -> tuple[Tensor, Tensor]:
    """GELU of ``x``, which is used up, and its slope there if that is wanted; else the GELU again."""
    assert library.LIBRARY is not None
    x = x.contiguous()
    hidden = torch.empty_like(x) if with_slope else x
    library.LIBRARY.convneur_gelu(x.data_ptr(), hidden.data_ptr(), with_slope, torch.get_num_threads(), x.numel())
    return hidden, x


def error(keys: Tensor, values: Tensor, steps: Tensor, gain: Tensor, update: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ``sum_i steps_i mean_D (M(keys_i) - values_i)^2`` with respect to ``update`` and ``gain``.

    Args:
        keys: (B, H, N, D).
        values: (B, H, N, D).
        steps: (B, H, N, 1).
        gain: (..., 1, D).
        update: What is normalised, (B, H, N, D); it is used up.

    Returns:
        (B, H, N, D) and (B, H, 1, D).
    """
    assert library.LIBRARY is not None
    batch, heads, count, width = keys.shape
    keys, values, update = keys.contiguous(), values.contiguous(), update.contiguous()
    steps = steps.expand(batch, heads, count, 1).contiguous()
    gain = gain.expand(batch, heads, 1, width).contiguous()
    by_gain, threads = torch.empty_like(gain), torch.get_num_threads()
    room = keys.new_empty(threads * width)
    library.LIBRARY.convneur_mlp_error(
        keys.data_ptr(),
        values.data_ptr(),
        steps.data_ptr(),
        gain.data_ptr(),
        update.data_ptr(),
        by_gain.data_ptr(),
        room.data_ptr(),
        threads,
        batch * heads,
        count,
        width,
        NORM_EPS,
    )
    return update, by_gain


def answer(queries: Tensor, gain: Tensor, update: Tensor) -> Tensor:
    """``queries + (1 + gain) LN(update)``; ``update`` is used up.

    Args:
        queries: (B, H, N, D).
        gain: (..., 1, D).
        update: (B, H, N, D).

    Returns:
        (B, H, N, D).
    """
    assert library.LIBRARY is not None
    batch, heads, count, width = queries.shape
    queries, update = queries.contiguous(), update.contiguous()
    gain = gain.expand(batch, heads, 1, width).contiguous()
    library.LIBRARY.convneur_mlp_answer(
        queries.data_ptr(),
        gain.data_ptr(),
        update.data_ptr(),
        torch.get_num_threads(),
        batch * heads,
        count,
        width,
        NORM_EPS,
    )
    return update
