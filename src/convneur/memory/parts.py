"""Tokens of an image that never are in memory at once: the same writes and reads, part by part.

Slots are written part by part. A write of fast weights in one chunk is a sum over its tokens, and so are the means that
its rates follow from: they are summed. Several chunks are written one after the other, each of the whole parts it has.
A causal read goes along with the writes; a global one needs the tokens a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from convneur.memory.chunks import advance
from convneur.memory.fast_weights import Weights
from convneur.memory.memory import Memory
from convneur.memory.neural_memory import MemoryState, NeuralMemory
from convneur.memory.slot_memory import SlotMemory
from convneur.ops.memory import Slots


def contexts_in_parts(
    memory: Memory, parts: Callable[[], Iterable[Tensor]], count: int, mean: Tensor | None = None
) -> Iterator[Tensor]:
    """What ``memory`` gives for all tokens, in parts; equal to one call with all of them but for rounding.

    Args:
        memory: Of any configuration.
        parts: Called once or twice; gives the tokens (B, n, D) in reading order, the same each time.
        count: N, tokens in all.
        mean: (B, 1, D), taken off each token, if given.

    Yields:
        Context of each part, (B, n, D).
    """

    def tokens() -> Iterator[Tensor]:
        return iter(parts()) if mean is None else (part - mean for part in parts())

    if isinstance(memory, NeuralMemory) and memory.config.read == "causal":
        state: MemoryState | None = None
        for part in tokens():
            context, state = memory(part, state, True)
            yield context
        return
    written: Weights | Slots | None = None
    if isinstance(memory, NeuralMemory):
        written = _written(memory, tokens(), count)
    elif isinstance(memory, SlotMemory):
        slots: Slots | None = None
        for part in tokens():
            slots = memory.write(part, slots)
        written = slots
    for part in tokens():
        yield memory.read(part, written)


def _written(memory: NeuralMemory, parts: Iterator[Tensor], count: int) -> Weights:
    size = memory.config.chunk_size
    if size is None or size >= count:
        return _written_at_once(memory, parts, count)
    state: MemoryState | None = None
    for part in _whole_chunks(parts, size):
        _, state = memory(part, state, True)
    assert state is not None
    return state.weights


def _written_at_once(memory: NeuralMemory, parts: Iterator[Tensor], count: int) -> Weights:
    """One chunk. Sums are kept in float64: of a million tokens each adds a millionth."""
    config, initial = memory.config, memory.fast.initial()
    scale = 1.0 if config.reference_length is None else config.reference_length / count
    sums: list[Tensor] | None = None
    for part in parts:
        normed = memory.store_norm(part)
        logits = memory.to_rates(normed)
        gradient = memory.fast.gradient(initial, *memory.write_inputs(normed, logits, scale))
        found = [each.double() for each in (*gradient, logits[..., memory.heads :].sum(1, keepdim=True))]
        sums = found if sums is None else [a + b for a, b in zip(sums, found, strict=True)]
    assert sums is not None
    kind = initial[0].dtype
    *gradients, rates = (each.to(kind) for each in sums)
    weights, _ = advance(initial, None, tuple(gradients), memory.rates(rates / count, carries=False).at(0))
    return weights


def _whole_chunks(parts: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The same tokens in parts of whole chunks; the last part ends with what is left."""
    left: Tensor | None = None
    for part in parts:
        held = part if left is None else torch.cat([left, part], 1)
        whole = held.shape[1] // size * size
        if whole:
            yield held[:, :whole]
        left = held[:, whole:]
    if left is not None and left.shape[1]:
        yield left
