"""The gradients of the folded memory, written out: fewer operations and less kept than autograd would; what it gains
is in ``docs/results/speed.md``. The oracle tests hold these gradients against autograd's, in float64.

Shape letters: B batch, H heads, N tokens, D memory width, d = D / H, R rates of a token.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from convneur.memory.config import MemoryConfig
from convneur.memory.folded import (
    Folded,
    Maps,
    Written,
    fold,
    heads_together,
    largest_step,
    queries_by_head,
    read_folded,
    side_by_side,
    write_folded,
)
from convneur.memory.norm import over_rms_gradient
from convneur.memory.plain import by_autograd
from convneur.memory.products import linear, weight_gradient


def composed(config: MemoryConfig, tokens: Tensor, *maps: Tensor) -> Tensor:
    """``proj(memory(tokens))`` of tokens (B, N, D) and the parts of `Maps`, as autograd follows it."""
    folded = fold(Maps(*maps))
    return read_folded(folded, write_folded(config, folded, tokens))


class Answer(torch.autograd.Function):
    """What `composed` gives, and its gradients."""

    @staticmethod
    def forward(ctx: Any, config: MemoryConfig, tokens: Tensor, *maps: Tensor) -> Tensor:
        """Tokens (B, N, D) and the parts of `Maps` -> (B, N, D)."""
        folded = fold(Maps(*maps))
        written = write_folded(config, folded, tokens, for_gradient=True)
        ctx.config = config
        ctx.save_for_backward(tokens, *maps, *folded, *written)
        return read_folded(folded, written)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """From the gradient of the answer (B, N, D)."""
        saved = ctx.saved_tensors  # once: checkpointing gives them once
        given, saved = saved[: 1 + len(Maps._fields)], saved[1 + len(Maps._fields) :]
        if torch.is_grad_enabled():
            return (None, *by_autograd(partial(composed, ctx.config), given, ctx.needs_input_grad[1:], grad))
        folded, written = Folded(*saved[: len(Folded._fields)]), Written(*saved[len(Folded._fields) :])
        grad_tokens, grad_folded = _through_memory(ctx.config, folded, written, grad)
        return (None, grad_tokens, *through_fold(Maps(*given[1:]), grad_folded))


def _through_memory(config: MemoryConfig, folded: Folded, written: Written, grad: Tensor) -> tuple[Tensor, Folded]:
    """Gradients of the tokens and the folded maps from that of the answer (B, N, D)."""
    batch, count, width = grad.shape
    heads, head = folded.initial.shape[:2]
    unit, scale, keys, inverse, error, opening, kept, memory = written
    assert scale is not None  # it was asked for

    # The read, head by head whatever the order was: answer = unit queries memory proj
    queries, grad = queries_by_head(folded, unit), grad.contiguous()
    grad_proj = weight_gradient(heads_together(queries @ memory, batch), grad)
    grad_answers = linear(grad, folded.proj.view(width, width)).view(batch, count, heads, head)
    grad_answers = grad_answers.transpose(1, 2).flatten(0, 1)
    grad_memory = queries.mT @ grad_answers
    grad_queries = heads_together(grad_answers @ memory.mT, batch)
    grad_unit = linear(grad_queries, folded.queries)

    # The write: memory = kept initial + keys' (error steps), error = keys initial - values
    steps = opening * -float(largest_step(config, count, head))
    initial = folded.initial.expand(batch, -1, -1, -1).flatten(0, 1)
    grad_taught = keys @ grad_memory
    grad_steps = (grad_taught * error).sum(-1, keepdim=True)
    grad_error = grad_taught * steps
    grad_keys = torch.baddbmm((error * steps) @ grad_memory.mT, grad_error, initial.mT)
    start = grad_memory if kept is None else kept * grad_memory
    grad_initial = torch.baddbmm(start, keys.mT, grad_error).view(batch, heads, head, head).sum(0)

    # What was projected: keys, values and rates side by side; the heads go back to where they were
    grad_stored = grad.new_empty(batch, count, len(folded.stored))
    into_both, grad_rates = grad_stored.split([2 * width, len(folded.bias)], -1)
    into_keys, into_values = into_both.view(batch, count, 2, heads, head).permute(2, 0, 3, 1, 4).unbind()
    torch.sub(grad_keys, keys * (keys * grad_keys).sum(-1, keepdim=True), out=grad_keys)
    torch.mul(_by_head(grad_keys, batch), _by_head(inverse, batch), out=into_keys)
    torch.neg(_by_head(grad_error, batch), out=into_values)
    grad_rates.zero_()  # there is no momentum within one chunk
    grad_opening = (grad_steps * steps).mul_(1 - opening)
    grad_rates.narrow(-1, 0, heads).copy_(grad_opening.view(batch, heads, count).mT)
    if kept is not None:
        grad_kept = (grad_memory * initial).sum((1, 2), keepdim=True)
        grad_rates.narrow(-1, -heads, heads).copy_((grad_kept * kept * (kept - 1) / count).view(batch, 1, heads))
    grad_unit += linear(grad_stored, folded.stored.mT)

    grad_folded = Folded(
        initial=grad_initial,
        stored=weight_gradient(grad_stored, unit),
        bias=grad_rates.sum((0, 1)),
        queries=weight_gradient(unit, grad_queries),
        proj=grad_proj.view(heads, head, width),
    )
    return over_rms_gradient(unit, scale, grad_unit), grad_folded


def _by_head(x: Tensor, batch: int) -> Tensor:
    """(B H, N, d) -> (B, H, N, d)."""
    return x.view(batch, -1, *x.shape[1:])


def through_fold(maps: Maps, grad: Folded) -> Maps:
    """Gradients of the maps from those of what they were folded to."""
    grad_queries = grad.queries.mT
    gained = grad.stored * maps.store_gain
    keys, values, rates = gained.split([len(maps.keys), len(maps.values), len(maps.rates)])
    return Maps(
        initial=grad.initial,
        keys=keys,
        values=values,
        rates=rates,
        bias=grad.bias,
        store_gain=(grad.stored * side_by_side(maps)).sum(0),
        queries=grad_queries * maps.retrieve_gain,
        retrieve_gain=(grad_queries * maps.queries).sum(0),
        proj=grad.proj.flatten(0, 1).mT,
    )
