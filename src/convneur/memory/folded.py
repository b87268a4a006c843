"""The default memory in few operations: its maps folded with one another, then written and read at once.

Most of what a small model spends on a memory goes to starting operations, not to arithmetic, so what follows does the
same as ``proj(memory(tokens))`` with a third of them. The oracle tests run through it, gradients included.

Shape letters: B batch, H heads, N tokens, D memory width, d = D / H, R rates of a token.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convneur.memory.fast_weights import LinearState
from convneur.memory.neural_memory import NeuralMemory
from convneur.memory.norm import RMSNorm
from convneur.memory.products import Linear, linear


class Folded(NamedTuple):
    """What does not depend on the image.

    Attributes:
        initial: M_0, (H, d, d).
        stored: (2D + R, D), keys, values and rates as one map, with the gain of their norm.
        bias: (R,), of the rates.
        queries: (D, D), tokens to queries, with the gain of their norm.
        proj: (H, d, D), what each head's answer adds to the output.
    """

    initial: Tensor
    stored: Tensor
    bias: Tensor
    queries: Tensor
    proj: Tensor


class FoldedMaps(nn.Module):
    """What was folded once, for inference alone, as buffers that are not in the state dict."""

    def __init__(self, folded: Folded) -> None:
        super().__init__()
        for name, value in zip(Folded._fields, folded, strict=True):
            self.register_buffer(name, value.detach().clone(memory_format=torch.contiguous_format), persistent=False)

    def forward(self) -> Folded:
        """Give them back."""
        return Folded(*(self.get_buffer(name) for name in Folded._fields))


def foldable(memory: nn.Module, proj: nn.Module) -> bool:
    """Whether `fold` can stand for a memory and the map behind it.

    It must be linear, read as a whole and in one chunk, made of the parts it was made of, and nobody may look inside.
    """
    if type(memory) is not NeuralMemory:
        return False
    config = memory.config
    if config.state != "linear" or config.read != "global" or config.chunk_size is not None:
        return False
    for part in (memory.to_queries, memory.to_keys, memory.to_values, memory.to_rates, proj):
        if type(part) is not Linear or _watched(part):
            return False
    for norm in (memory.store_norm, memory.retrieve_norm):
        if type(norm) is not RMSNorm or _watched(norm):
            return False
    return type(memory.fast) is LinearState and not (_watched(memory.fast) or _watched(memory))


def _watched(module: nn.Module) -> bool:
    """Whether hooks wait for its call."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def fold(memory: NeuralMemory, proj: Tensor) -> Folded:
    """Fold a memory and the map (D, D) behind it; see `foldable`. Gradients pass."""
    maps = torch.cat([memory.to_keys.weight, memory.to_values.weight, memory.to_rates.weight])
    return Folded(
        initial=memory.fast.initial()[0],
        stored=maps * memory.store_norm.weight,
        bias=memory.to_rates.bias,
        queries=(memory.to_queries.weight * memory.retrieve_norm.weight).mT,
        proj=proj.mT.unflatten(0, (memory.heads, -1)),
    )


def write_folded(memory: NeuralMemory, folded: Folded, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Write the tokens.

    Args:
        memory: For its knobs.
        folded: Its maps.
        tokens: (B, N, D).

    Returns:
        rms(tokens), (B, N, D), without a gain: both norms differ in that only. And M, (B, H, d, d).
    """
    batch, count, width = tokens.shape
    heads, config = memory.heads, memory.config
    unit = F.rms_norm(tokens, (width,), None, RMSNorm.EPS)
    stored, rates = linear(unit, folded.stored).split([2 * width, len(folded.bias)], -1)
    rates = rates + folded.bias
    # One copy brings the heads to the front, where a batched product takes them as they are: (B H, N, d)
    head = width // heads
    keys, values = stored.view(batch, count, 2, heads, head).permute(2, 0, 3, 1, 4).flatten(1, 2).unbind()
    keys = LinearState.keys(keys)
    initial = folded.initial.expand(batch, -1, -1, -1).flatten(0, 1)
    error = torch.baddbmm(values, keys, initial, beta=-1)
    scale = config.max_step * 2 / head
    if config.reference_length is not None:
        scale = scale * config.reference_length / count
    steps = rates[..., :heads].sigmoid().mT.reshape(-1, count, 1)
    kept = initial
    if config.decay:
        kept = (-rates[..., -heads:].mean(1)).sigmoid().view(-1, 1, 1) * initial
    return unit, torch.baddbmm(kept, keys.mT, error * (steps * -scale)).unflatten(0, (batch, heads))


def read_folded(folded: Folded, unit: Tensor, written: Tensor) -> Tensor:
    """``proj(memory(tokens))`` from what `write_folded` gives, (B, N, D).

    Nobody needs the queries themselves: with M_h the memory of a head, Q_h its map to queries and P_h what is behind
    it, the answer to all tokens is one product with a D x D matrix per image,

        proj(memory(z)) = rms(z) sum_h Q_h M_h P_h.
    """
    return unit @ (folded.queries @ (written @ folded.proj).flatten(1, 2))
