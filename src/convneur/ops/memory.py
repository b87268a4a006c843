"""The default memory: fast weights M, written from an image's tokens by one step of gradient descent, then read by all.

    loss    = sum_i s_i mean_d ( k_i M_0 - v_i )^2        k_i keys, v_i values, s_i steps, M_0 learned
    M       = r M_0 - d loss / d M (M_0)                  r the share of M_0 that is kept (retention)
    answer  = q_i M                                       q_i queries

`docs/method.md` derives the gradient. Whoever changes the rule of the write or the read changes it here, and the oracle
(`convneur.memory.reference`); backbone, chunks, streaming and explain use these functions. The kernel of this formula
is part of the global branch (``csrc/global_branch.c``) and follows when its C does.

Shape letters: B batch, H heads, N tokens, D width of one head. Leading dimensions broadcast.
"""

from __future__ import annotations

import torch
from torch import Tensor

KEY_EPS = 1e-6  # representable in float16, so that a key of zeros stays zero instead of becoming 0 / 0


def unit_keys(keys: Tensor) -> Tensor:
    """L2-normalise keys (..., D), which bounds the step at which the write stays stable."""
    # In float32 at least: a square of a half-precision number may be out of range.
    wide = keys.float() if keys.dtype in (torch.float16, torch.bfloat16) else keys
    return keys * ((wide * wide).sum(-1, keepdim=True) + KEY_EPS).rsqrt().to(keys.dtype)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, H * D) -> (B, H, N, D)."""
    return x.unflatten(-1, (heads, x.shape[-1] // heads)).transpose(1, 2)


def gradient(memory: Tensor, keys: Tensor, values: Tensor, steps: Tensor) -> Tensor:
    """Gradient of ``sum_i steps_i * mean_D (keys_i M - values_i)^2`` with respect to M, in closed form.

    Args:
        memory: Where the gradient is taken, (..., D, D).
        keys: (..., N, D).
        values: (..., N, D).
        steps: (..., N, 1).

    Returns:
        (..., D, D), summed over the tokens.
    """
    error = keys @ memory - values
    return keys.mT @ (error * (steps * (2 / keys.shape[-1])))


def read(memory: Tensor, queries: Tensor) -> Tensor:
    """What a memory (..., D, D) answers to queries (..., N, D): (..., N, D)."""
    return queries @ memory


def reference(
    queries: Tensor, keys: Tensor, values: Tensor, steps: Tensor, initial: Tensor, retention: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Write all tokens of an image, then let every token read.

    Args:
        queries: (B, H, N, D).
        keys: (B, H, N, D), of unit length.
        values: (B, H, N, D).
        steps: (B, H, N, 1).
        initial: M_0, (H, D, D) or (B, H, D, D).
        retention: (B, H, 1, 1), or None for 1.

    Returns:
        Answers (B, H, N, D) and the memory M (B, H, D, D).
    """
    kept = initial if retention is None else retention * initial
    memory = kept - gradient(initial, keys, values, steps)
    return read(memory, queries), memory
