"""The oracle: the same memories, written to be obviously right. Float64, token by token, gradients by autograd.

It shares nothing with the fast path but the parameters, which it reads from a memory by name.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from convneur.memory.memory import Memory
from convneur.memory.neural_memory import MemoryState, NeuralMemory
from convneur.memory.slot_memory import SlotMemory
from convneur.ops.memory import Slots


def reference(memory: Memory, tokens: Tensor, state: Any = None, return_state: bool = False) -> Any:
    """What ``memory(tokens, state, return_state)`` must give; same arguments, same results, in float64.

    Of fast weights the inner gradient is ``torch.autograd.grad`` of the inner loss, so this cannot run under
    ``inference_mode``.
    """
    if isinstance(memory, SlotMemory):
        rows, slots = _slots(memory, tokens.double(), state)
        return (rows, slots) if return_state else rows
    assert isinstance(memory, NeuralMemory)
    samples = []
    for index in range(tokens.shape[0]):
        own = None
        if state is not None:
            own = MemoryState(
                tuple(w[index] for w in state.weights),
                tuple(w[index] for w in state.momentum),
                state.pending[index],
            )
        samples.append(_sample(memory, tokens[index].double(), own))
    context = torch.stack([context for context, _ in samples])
    if not return_state:
        return context
    states = [own for _, own in samples]
    return context, MemoryState(
        tuple(torch.stack(w) for w in zip(*(s.weights for s in states), strict=True)),
        tuple(torch.stack(w) for w in zip(*(s.momentum for s in states), strict=True)),
        torch.stack([s.pending for s in states]),
    )


def _slots(memory: SlotMemory, tokens: Tensor, state: Slots | None) -> tuple[Tensor, Slots]:
    """Tokens (B, N, D) -> context (B, N, D) and the slots."""
    heads, head = memory.heads, memory.width // memory.heads
    written = []  # of each sample and head: memory and mass
    context = torch.empty_like(tokens)
    for b, sample in enumerate(tokens):
        for h in range(heads):
            of_head = slice(h * head, (h + 1) * head)
            keys, values = [], []
            for token in sample:
                x = (token - token.mean()) / torch.sqrt(token.var(unbiased=False) + 1e-6)
                x = x * memory.norm.weight.double() + memory.norm.bias.double()
                step = torch.sigmoid(memory.to_steps.weight.double()[h] @ x + memory.to_steps.bias.double()[h])
                keys.append(memory.to_keys.weight.double()[of_head] @ x)
                values.append(step * (memory.to_values.weight.double()[of_head] @ x))
            weights = [torch.exp(3 * key) for key in keys]
            totals = sum(weights, torch.zeros(head).double() if state is None else state.mass[b, h].double().exp())
            rows = []
            for j in range(head):
                row = torch.zeros(head).double()
                if state is not None:
                    row = state.memory[b, h, j].double() * state.mass[b, h, j].double().exp()
                for weight, value in zip(weights, values, strict=True):
                    row = row + weight[j] * value
                rows.append(row / totals[j])
            for i, weight in enumerate(weights):
                answer = sum((weight[j] * rows[j] for j in range(head)), torch.zeros(head).double())
                context[b, i, of_head] = answer / weight.sum()
            written.append((torch.stack(rows), totals.log()))
    memories, masses = (torch.stack(each).unflatten(0, (-1, heads)) for each in zip(*written, strict=True))
    return context, Slots(memories, masses)


def _sample(memory: NeuralMemory, tokens: Tensor, state: MemoryState | None) -> tuple[Tensor, MemoryState]:
    """One sample: tokens (N, D) -> context (N, D) and its state, all without a batch dimension."""
    config = memory.config
    initial = [w.double() for w in memory.fast.initial()]
    weights = initial if state is None else [w.double() for w in state.weights]
    momentum = [torch.zeros_like(w) for w in initial] if state is None else [w.double() for w in state.momentum]
    stored = tokens if state is None else torch.cat([state.pending.double(), tokens])
    first = len(stored) - len(tokens)
    size = config.chunk_size or len(stored)
    chunks = [list(range(start, min(start + size, len(stored)))) for start in range(0, len(stored), size)]

    context: dict[int, Tensor] = {}
    for number, chunk in enumerate(chunks):
        if config.read == "causal":
            for i in chunk:
                if i >= first:
                    context[i] = _read(memory, weights, stored[i])
            if number == len(chunks) - 1:
                break
        weights, momentum = _write(memory, initial, weights, momentum, [stored[i] for i in chunk])
    if config.read == "global":
        context = {i: _read(memory, weights, stored[i]) for i in range(len(stored))}
    pending = stored[chunks[-1][0] :] if config.read == "causal" else stored[:0]
    rows = torch.stack([context[i] for i in range(first, len(stored))])
    return rows, MemoryState(tuple(weights), tuple(momentum), pending)


def _write(
    memory: NeuralMemory, initial: list[Tensor], weights: list[Tensor], momentum: list[Tensor], chunk: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """S = eta S - grad loss;  M = (1 - alpha) M + S, for one chunk of tokens, each (D,)."""
    config, heads = memory.config, memory.heads
    anchor = initial if config.anchor == "initial" else weights
    point = [w if w.requires_grad else w.detach().requires_grad_() for w in anchor]
    scale = 1.0 if config.reference_length is None else config.reference_length / len(chunk)
    loss = tokens_mean = torch.zeros((), dtype=torch.float64)
    for token in chunk:
        x = _rms_norm(token, memory.store_norm.weight)
        keys = (memory.to_keys.weight.double() @ x).reshape(heads, -1)
        values = (memory.to_values.weight.double() @ x).reshape(heads, -1)
        rates = memory.to_rates.weight.double() @ x + memory.to_rates.bias.double()
        tokens_mean = tokens_mean + x / len(chunk)
        for h in range(heads):
            step = scale * config.max_step * torch.sigmoid(rates[h])
            answer = _apply(memory, [w[h] for w in point], _key(memory, keys[h]))
            loss = loss + step * (answer - values[h]).pow(2).mean()
    gradient = torch.autograd.grad(loss, point, create_graph=True)
    rates = (memory.to_rates.weight.double() @ tokens_mean + memory.to_rates.bias.double()).reshape(-1, heads)
    eta = torch.sigmoid(rates[1]) if config.momentum else torch.zeros(heads, dtype=torch.float64)
    alpha = torch.sigmoid(rates[-1]) if config.decay else torch.zeros(heads, dtype=torch.float64)
    momentum = [eta[:, None, None] * s - g for s, g in zip(momentum, gradient, strict=True)]
    return [(1 - alpha)[:, None, None] * w + s for w, s in zip(weights, momentum, strict=True)], momentum


def _read(memory: NeuralMemory, weights: list[Tensor], token: Tensor) -> Tensor:
    """Context (D,) of one token (D,)."""
    query = memory.to_queries.weight.double() @ _rms_norm(token, memory.retrieve_norm.weight)
    heads = query.reshape(memory.heads, -1)
    return torch.cat([_apply(memory, [w[h] for w in weights], heads[h]) for h in range(memory.heads)])


def _apply(memory: NeuralMemory, weights: list[Tensor], x: Tensor) -> Tensor:
    """M(x) of one head: (D,) -> (D,)."""
    if memory.config.state == "linear":
        return x @ weights[0]
    hidden = x @ weights[0]
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    out = hidden @ weights[1]
    out = (out - out.mean()) / torch.sqrt(out.var(unbiased=False) + 1e-5)
    return x + (1 + weights[2][0]) * out


def _key(memory: NeuralMemory, key: Tensor) -> Tensor:
    return key / torch.sqrt(key.pow(2).sum() + 1e-6) if memory.config.state == "linear" else key


def _rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / torch.sqrt(x.pow(2).mean() + 1e-6) * weight.double()
