"""Arithmetic over chunks: averages, and the recurrence of momentum and decay.

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
