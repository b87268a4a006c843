"""The default memory: slots, written from an image's tokens to the optimum of a loss, then read by all tokens.

    l_ij    = 3 k_ij                                      k_i keys, one number per slot j
    loss    = sum_ij a_ij |M_j - s_i v_i|^2               a_ij softmax of l over the tokens, v_i values, s_i steps
    M_j     = sum_i a_ij s_i v_i                          the optimum: one weighted mean of values per slot
    answer  = sum_j r_ij M_j                              r_ij softmax of l over the slots

`docs/method.md` derives the write. Whoever changes the rule of the write or the read changes it here, and the oracle
(`convneur.memory.reference`); backbone, parts, streaming and explain use these functions. The kernel of this formula is
part of the global branch (``csrc/global_branch.c``) and follows when its C does.

Shape letters: B batch, H heads, N tokens, S slots of a head, D width of a value. Leading dimensions broadcast.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SHARPNESS = 3.0  # keys of a new model have a standard deviation of about 0.6, whose softmax would be nearly a mean


class Slots(NamedTuple):
    """What was written so far: ``memory`` M (..., S, D), and ``mass`` (..., S), the logarithm of the sum of weights."""

    memory: Tensor
    mass: Tensor


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, H * D) -> (B, H, N, D)."""
    return x.unflatten(-1, (heads, x.shape[-1] // heads)).transpose(1, 2)


def write(keys: Tensor, values: Tensor, steps: Tensor) -> Tensor:
    """The memory after these tokens alone.

    Args:
        keys: (..., N, S).
        values: (..., N, D).
        steps: (..., N, 1).

    Returns:
        M, (..., S, D).
    """
    return (SHARPNESS * keys).softmax(-2).mT @ (steps * values)


def write_part(slots: Slots | None, keys: Tensor, values: Tensor, steps: Tensor) -> Slots:
    """Add tokens to what was written before; parts may come in any order and of any size.

    Args:
        slots: What was written before; None for nothing.
        keys: (..., N, S).
        values: (..., N, D).
        steps: (..., N, 1).
    """
    wide = keys.float() if keys.dtype in (torch.float16, torch.bfloat16) else keys
    memory, mass = write(keys, values, steps), (SHARPNESS * wide).logsumexp(-2)
    if slots is None:
        return Slots(memory, mass)
    # One share, and the rest for what was there: two rounded shares would not add up to 1, and the mean would grow.
    share = (mass - slots.mass).sigmoid().unsqueeze(-1).to(memory.dtype)
    return Slots(slots.memory.lerp(memory, share), torch.logaddexp(slots.mass, mass))


def read(memory: Tensor, keys: Tensor) -> Tensor:
    """What a memory (..., S, D) answers to tokens with keys (..., N, S): (..., N, D)."""
    return (SHARPNESS * keys).softmax(-1) @ memory


def reference(keys: Tensor, values: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Write all tokens of an image, then let every token read.

    Args:
        keys: (B, H, N, S).
        values: (B, H, N, D).
        steps: (B, H, N, 1).

    Returns:
        Answers (B, H, N, D) and the memory M (B, H, S, D).
    """
    memory = write(keys, values, steps)
    return read(memory, keys), memory
