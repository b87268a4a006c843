"""Arithmetic over chunks: averages, the recurrence of momentum and decay, and its unrolled coefficients.

    S_c = eta_c S_(c-1) - G_c            momentum
    M_c = (1 - alpha_c) M_(c-1) + S_c    decay

Shape letters: B batch, H heads, N tokens, T chunks, L tokens per chunk.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from convneur.memory.fast_weights import Weights


class Rates(NamedTuple):
    """What happens between two writes: ``momentum`` eta and ``keep`` 1 - alpha, each (B, H, T), or None if unused."""

    momentum: Tensor | None
    keep: Tensor | None

    def at(self, chunk: int) -> Rates:
        """Rates of one chunk as (B, H, 1, 1), to scale matrices with."""
        return Rates(*(None if rate is None else rate[..., chunk, None, None] for rate in self))


class Unrolled(NamedTuple):
    """The last memory and momentum as sums over what was written, each (B, H, T) or (B, H).

    M_T = memory_start M_0 + momentum_start S_0 - sum_c memory[c] G_c
    S_T = momentum_carry S_0 - sum_c momentum[c] G_c
    """

    memory: Tensor
    momentum: Tensor
    memory_start: Tensor
    momentum_start: Tensor
    momentum_carry: Tensor


def chunk_mean(x: Tensor, size: int) -> Tensor:
    """Mean over each chunk of ``size`` tokens, the last one being as short as it is: (B, N, H) -> (B, T, H)."""
    if size >= x.shape[1]:
        return x.mean(1, keepdim=True)
    whole = x.shape[1] // size * size
    parts = []
    if whole:
        parts.append(x[:, :whole].unflatten(1, (whole // size, size)).mean(2))
    if whole < x.shape[1]:
        parts.append(x[:, whole:].mean(1, keepdim=True))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def advance(weights: Weights, momentum: Weights | None, gradient: Weights, rates: Rates) -> tuple[Weights, Weights]:
    """One step of the recurrence for one chunk.

    Args:
        weights: M_(c-1), each (..., H, R, C) of any matrix shape R x C.
        momentum: S_(c-1), or None before anything was written.
        gradient: G_c, each (B, H, R, C).
        rates: Of this chunk, (B, H, 1, 1).

    Returns:
        M_c and S_c.
    """
    if momentum is None or rates.momentum is None:
        written = tuple(-g for g in gradient)
    else:
        written = tuple(rates.momentum * s - g for s, g in zip(momentum, gradient, strict=True))
    if rates.keep is None:
        return tuple(m + s for m, s in zip(weights, written, strict=True)), written
    return tuple(torch.addcmul(s, rates.keep, m) for m, s in zip(weights, written, strict=True)), written


def unroll(rates: Rates, like: Tensor) -> Unrolled:
    """Coefficients of the last state, by a backward sweep over the chunks in scalars.

    With all gradients taken at M_0, the last memory is linear in them, so that a single pass over all tokens writes
    every chunk: each token's step is multiplied by the coefficient of its chunk and no state between is ever built.

    Args:
        rates: Of all chunks.
        like: Any tensor (B, H, T), for shape and kind where both rates are unused.
    """
    one = torch.ones_like(like[..., 0])
    zero = torch.zeros_like(one)
    kept = through_momentum = through_memory = one
    memory, momentum = [one], [one]
    for chunk in range(like.shape[-1] - 1, -1, -1):
        eta = zero if rates.momentum is None else rates.momentum[..., chunk]
        kept = kept if rates.keep is None else kept * rates.keep[..., chunk]
        through_momentum, inherited = through_momentum * eta, through_memory * eta
        through_memory = kept + inherited
        memory.append(through_memory)
        momentum.append(through_momentum)
    # The sweep ends one step before the first chunk, where S_0 reaches the memory through momentum only.
    return Unrolled(
        memory=torch.stack(memory[-2::-1], -1),
        momentum=torch.stack(momentum[-2::-1], -1),
        memory_start=kept,
        momentum_start=inherited,
        momentum_carry=through_momentum,
    )
