"""Memories whose every parameter is away from its special value, and how they are held against the oracle."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from convneur.memory import Memory, MemoryConfig, MemoryState, SlotMemory, make_memory, reference
from convneur.memory.reference import _apply, _key, _read, _rms_norm
from convneur.ops.memory import Slots


def stir(module: nn.Module, by: float = 0.3) -> Any:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return module


def stirred_memory(width: int, config: MemoryConfig, by: float = 0.3) -> Any:
    """In float64."""
    return stir(make_memory(width, config).double(), by)


def relative(a: Tensor, b: Tensor) -> float:
    """Norm of the difference over the norm of ``b``, or the largest value of ``a`` where ``b`` is zero."""
    return ((a - b).norm() / b.norm()).item() if b.any() else a.abs().sum().item()


def flat(state: MemoryState | Slots) -> list[Tensor]:
    return list(state) if isinstance(state, Slots) else [*state.weights, *state.momentum, state.pending]


def results(
    function: Callable[..., Any], tokens: Tensor, memory: Memory, state: Any, return_state: bool
) -> dict[str, Tensor]:
    """Output, final state if asked for, and gradients of one scalar that depends on all of it."""
    named = {"tokens": tokens.clone().requires_grad_()} | dict(memory.named_parameters())
    found = function(named["tokens"], state, return_state)
    pieces = [found[0], *flat(found[1])] if return_state else [found]
    total = sum((p * torch.arange(p.numel(), dtype=torch.float64).cos().view(p.shape).to(p)).sum() for p in pieces)
    gradients = torch.autograd.grad(total, list(named.values()), materialize_grads=True)
    return (
        {"context": pieces[0]}
        | {f"state {number}": piece for number, piece in enumerate(pieces[1:])}
        | {f"gradient of {name}": gradient for name, gradient in zip(named, gradients, strict=True)}
    )


def assert_equals_the_oracle(
    memory: Memory,
    tokens: Tensor,
    state: MemoryState | Slots | None = None,
    return_state: bool = True,
    in_float32: bool = False,
) -> None:
    """In float64, to 1e-9, and on request the same numbers in float32, to 1e-4."""
    single = copy.deepcopy(memory).float()
    memory.load_state_dict(single.state_dict())  # both have the same parameters, rounded to float32
    tokens = tokens.float().double()
    expected = results(lambda *given: reference(memory, *given), tokens, memory, state, return_state)
    compared = [(results(memory, tokens, memory, state, return_state), 1e-9)]
    if in_float32:
        compared.append((results(single, tokens.float(), single, state, return_state), 1e-4))
    for got, tolerance in compared:
        for name, value in expected.items():
            assert got[name].shape == value.shape, name
            error = relative(got[name].double(), value)
            assert error <= tolerance, f"{name}: relative error {error:.2e} in {got['context'].dtype}"


class OfOneImage(NamedTuple):
    """What the oracle says of N tokens: how far off each write was (N), and what is read of M and of M_0, (N, D)."""

    surprise: Tensor
    read: Tensor
    read_initial: Tensor


@torch.inference_mode(False)
@torch.enable_grad()
def by_the_oracle(memory: Memory, tokens: Tensor) -> OfOneImage:
    """Tokens (N, D) of one image, one after another, in float64."""
    tokens, config, heads = tokens.double().clone(), memory.config, memory.heads
    if isinstance(memory, SlotMemory):
        read, exact = reference(memory, tokens[None])[0], copy.deepcopy(memory).double()
        _, values, steps = exact.inputs(tokens[None])
        written = (steps * values)[0].transpose(0, 1).flatten(1)
        return OfOneImage((read - written).square().mean(-1).detach(), read.detach(), torch.zeros_like(tokens))
    size = config.chunk_size or len(tokens)
    initial = [w.double() for w in memory.fast.initial()]
    surprise = torch.full((len(tokens),), torch.nan, dtype=torch.float64)
    for i, token in enumerate(tokens):
        chunk = i // size
        if config.read == "causal" and chunk == (len(tokens) - 1) // size:
            continue  # never written
        point = initial
        if config.anchor == "previous" and chunk:
            # The oracle's memory after the chunks before; a causal read writes a chunk when the next one begins.
            before = tokens[None, : chunk * size + (config.read == "causal")]
            point = [w[0] for w in reference(memory, before, return_state=True)[1].weights]
        x = _rms_norm(token, memory.store_norm.weight)
        keys, values = ((to.weight.double() @ x).view(heads, -1) for to in (memory.to_keys, memory.to_values))
        answers = [_apply(memory, [w[h] for w in point], _key(memory, keys[h])) for h in range(heads)]
        surprise[i] = (torch.stack(answers) - values).square().mean()
    read_initial = torch.stack([_read(memory, initial, token) for token in tokens])
    return OfOneImage(surprise.detach(), reference(memory, tokens[None])[0].detach(), read_initial.detach())
