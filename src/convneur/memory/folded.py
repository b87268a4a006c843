"""The default memory in few operations: its maps folded with one another, then written and read at once.

Most of what a small model spends on a memory goes to starting operations, not to arithmetic, so what follows does the
same as ``proj(memory(tokens))`` with a quarter fewer. The oracle tests run through it, gradients included.

Shape letters: B batch, H heads, N tokens, D memory width, d = D / H, R rates of a token.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

from convneur.memory.config import MemoryConfig
from convneur.memory.fast_weights import LinearState, MlpState
from convneur.memory.neural_memory import NeuralMemory
from convneur.memory.norm import RMSNorm, over_rms, rms_norm
from convneur.memory.products import Linear, linear


class Maps(NamedTuple):
    """The parameters of a memory and of the map behind it, one by one.

    Attributes:
        initial: M_0, (H, d, d).
        keys: (D, D).
        values: (D, D).
        rates: (R H, D), all heads of one rate after the other.
        bias: (R H,), of the rates.
        store_gain: (D,), of the norm before the write.
        queries: (D, D).
        retrieve_gain: (D,), of the norm before the read.
        proj: (D, D).
    """

    initial: Tensor
    keys: Tensor
    values: Tensor
    rates: Tensor
    bias: Tensor
    store_gain: Tensor
    queries: Tensor
    retrieve_gain: Tensor
    proj: Tensor


class Folded(NamedTuple):
    """What does not depend on the image.

    Attributes:
        initial: M_0, (H, d, d).
        stored: ((2d + R) H, D), keys, values and rates as one map, with the gain of their norm.
        bias: (R H,), of the rates.
        queries: (D, D), tokens to queries, with the gain of their norm.
        proj: (H, d, D), what each head's answer adds to the output.
    """

    initial: Tensor
    stored: Tensor
    bias: Tensor
    queries: Tensor
    proj: Tensor


class Written(NamedTuple):
    """A memory that was written, and what the gradient of the write asks for.

    Attributes:
        unit: rms(tokens), (B, N, D), without a gain: both norms differ in that only.
        scale: (B, N, 1), what the tokens were multiplied with; None where that was not asked for.
        keys: (B H, N, d), normalised.
        inverse: (B H, N, 1), what the keys were multiplied with.
        error: (B H, N, d), what M_0 answers less the values.
        opening: (B H, N, 1), the step of each token over the largest one.
        kept: (B H, 1, 1), the share of M_0 that is left; None where nothing is forgotten.
        memory: M, (B H, d, d).
    """

    unit: Tensor
    scale: Tensor | None
    keys: Tensor
    inverse: Tensor
    error: Tensor
    opening: Tensor
    kept: Tensor | None
    memory: Tensor


class FoldedMaps(nn.Module):
    """What was folded once, for inference alone, as buffers that are not in the state dict."""

    def __init__(self, folded: Folded) -> None:
        super().__init__()
        for name, value in zip(Folded._fields, folded, strict=True):
            self.register_buffer(name, value.detach().clone(memory_format=torch.contiguous_format), persistent=False)

    def forward(self) -> Folded:
        """Give them back."""
        return Folded(*(self.get_buffer(name) for name in Folded._fields))


def maps_of(memory: nn.Module, proj: Any) -> Maps | None:
    """What `fold` takes of a memory and the map behind it, or None where it cannot stand for them.

    The memory must be linear, read as a whole and in one chunk, made of the parts it was made of, and nobody may look
    inside.
    """
    return _maps_of(memory, proj, LinearState, "weight")


def mlp_maps_of(memory: nn.Module, proj: Any) -> tuple[Maps, tuple[Tensor, Tensor]] | None:
    """The same of a memory whose state is an mlp, ``initial`` its first map, (H, d, 4d); its second map, and gain."""
    maps = _maps_of(memory, proj, MlpState, "weight1")
    if maps is None:
        return None
    parts: dict[str, Any] = memory._modules
    weights = parts["fast"]._parameters
    return maps, (weights["weight2"], weights["gain"])


def _maps_of(memory: nn.Module, proj: Any, state: type[nn.Module], initial: str) -> Maps | None:
    if type(memory) is not NeuralMemory:
        return None
    config = memory.config
    if config.read != "global" or config.chunk_size is not None:
        return None
    # A module looks its attributes up in half a microsecond each, and here are twenty for every block and image.
    parts: dict[str, Any] = memory._modules
    linears = (parts["to_keys"], parts["to_values"], parts["to_rates"], parts["to_queries"], proj)
    norms, fast = (parts["store_norm"], parts["retrieve_norm"]), parts["fast"]
    for part in linears:
        if type(part) is not Linear or watched(part):
            return None
    for norm in norms:
        if type(norm) is not RMSNorm or watched(norm):
            return None
    if type(fast) is not state or watched(fast) or watched(memory):
        return None
    keys, values, rates, queries, behind = (part._parameters for part in linears)
    store_norm, retrieve_norm = (norm._parameters for norm in norms)
    return Maps(
        initial=parts["fast"]._parameters[initial],
        keys=keys["weight"],
        values=values["weight"],
        rates=rates["weight"],
        bias=rates["bias"],
        store_gain=store_norm["weight"],
        queries=queries["weight"],
        retrieve_gain=retrieve_norm["weight"],
        proj=behind["weight"],
    )


def watched(module: nn.Module) -> bool:
    """Whether hooks wait for its call."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def all_watched() -> bool:
    """Whether hooks wait for the call of every module. A counter of operations has some, and should count what runs."""
    return bool(_global_forward_hooks or _global_forward_pre_hooks)


def fold(maps: Maps) -> Folded:
    """Fold the maps of a memory. Gradients pass."""
    return Folded(
        initial=maps.initial,
        stored=side_by_side(maps) * maps.store_gain,
        bias=maps.bias,
        queries=(maps.queries * maps.retrieve_gain).mT,
        proj=maps.proj.mT.view(maps.initial.shape[0], -1, maps.proj.shape[0]),
    )


def side_by_side(maps: Maps) -> Tensor:
    """What is stored of a token: keys, values and rates, without a gain, ((2d + R) H, D)."""
    return torch.cat([maps.keys, maps.values, maps.rates])


def largest_step(config: MemoryConfig, count: int, head: int) -> float | torch.SymFloat:
    """What the gradient of one of ``count`` tokens is multiplied with at most, the 2 / d of the mean included."""
    scale = config.max_step * 2 / head
    return scale if config.reference_length is None else scale * config.reference_length / count


def write_folded(config: MemoryConfig, folded: Folded, tokens: Tensor, for_gradient: bool = False) -> Written:
    """Write tokens (B, N, D) into a memory with these knobs; ``for_gradient``, with all that the gradient asks for."""
    batch, count, width = tokens.shape
    heads, head = folded.initial.shape[:2]
    unit, scale = over_rms(tokens) if for_gradient else (rms_norm(tokens), None)
    stored, rates = linear(unit, folded.stored).split([2 * width, folded.bias.shape[0]], -1)
    rates = rates + folded.bias
    # One copy brings the heads to the front, where a batched product takes them as they are: (B H, N, d). Products of
    # strided keys and values save the copy and take longer.
    keys, values = stored.view(batch, count, 2, heads, head).permute(2, 0, 3, 1, 4).flatten(1, 2).unbind()
    inverse = LinearState.inverse_norm(keys)
    keys = keys * inverse
    initial = folded.initial.expand(batch, -1, -1, -1).flatten(0, 1)
    error = torch.baddbmm(values, keys, initial, beta=-1)
    opening = rates.narrow(-1, 0, heads).sigmoid().mT.reshape(-1, count, 1)
    start, kept = initial, None
    if config.decay:
        kept = (-rates.narrow(-1, -heads, heads).mean(1)).sigmoid().view(-1, 1, 1)
        start = kept * initial
    step = largest_step(config, count, head)
    if isinstance(step, float):
        memory = torch.baddbmm(start, keys.mT, error * opening, alpha=-step)
    else:  # of a number of tokens that a graph leaves open
        memory = torch.baddbmm(start, keys.mT, error * (opening * -step))
    return Written(unit, scale, keys, inverse, error, opening, kept, memory)


def read_folded(folded: Folded, written: Written) -> Tensor:
    """``proj(memory(tokens))`` from what `write_folded` gives, (B, N, D).

    With M_h the memory of a head, Q_h its map to queries and P_h what is behind it,

        proj(memory(z)) = rms(z) sum_h Q_h M_h P_h.

    Of many tokens nobody needs the queries themselves, and the answer is one product with a D x D matrix per image; of
    fewer tokens than D that matrix would be the larger part of the work.
    """
    unit, memory = written.unit, written.memory
    batch, count, width = unit.shape
    # One graph for any number of tokens where a graph is made.
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or count >= width:
        # torch.bmm, because matmul takes four operations more to find out that this is what it should do
        behind = torch.bmm(memory, folded.proj.expand(batch, -1, -1, -1).flatten(0, 1)).view(batch, width, width)
        return torch.bmm(unit, torch.bmm(folded.queries.expand(batch, -1, -1), behind))
    answers = torch.bmm(queries_by_head(folded, unit), memory)
    return linear(heads_together(answers, batch), folded.proj.view(width, width).mT)


def queries_by_head(folded: Folded, unit: Tensor) -> Tensor:
    """(B, N, D) -> (B H, N, d)."""
    queries = linear(unit, folded.queries.mT)
    return queries.view(*unit.shape[:2], folded.initial.shape[0], -1).transpose(1, 2).flatten(0, 1)


def heads_together(x: Tensor, batch: int) -> Tensor:
    """(B H, N, d) -> (B, N, D)."""
    return x.view(batch, -1, *x.shape[1:]).transpose(1, 2).flatten(2)
