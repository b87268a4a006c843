"""The default memory with gradients on a CPU: by two calls of C (``kernels.c``), one forward and one backward, between
products of all images' tokens, where PyTorch takes some ninety operations (``docs/results/speed.md``).

What C makes of keys, values and steps is made again for the gradient instead of being kept. Where it does not serve,
`convneur.memory.folded_gradient` does the same in PyTorch's operators.

Shape letters: B batch, H heads, N tokens, D memory width, d = D / H, R rates of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from convneur.memory import library
from convneur.memory.config import MemoryConfig
from convneur.memory.fast_weights import KEY_EPS
from convneur.memory.folded import Folded, Maps, largest_step, side_by_side
from convneur.memory.folded_gradient import Answer, composed, through_fold
from convneur.memory.norm import over_rms, over_rms_gradient
from convneur.memory.plain import by_autograd, may_go_by_hand
from convneur.memory.products import linear, weight_gradient


def answer(config: MemoryConfig, maps: Maps, tokens: Tensor) -> Tensor:
    """``proj(memory(tokens))``, for memories that can be folded, with gradients.

    Args:
        config: The knobs of the memory.
        maps: Its parameters.
        tokens: (B, N, D).

    Returns:
        (B, N, D).
    """
    if not torch.is_grad_enabled() or not may_go_by_hand(tokens, *maps):
        return composed(config, tokens, *maps)
    by_kernel = tokens.dtype is torch.float32 and library.takes(tokens, *maps)
    return (AnswerByKernel if by_kernel else Answer).apply(config, tokens, *maps)


class AnswerByKernel(torch.autograd.Function):
    """What `composed` gives, and its gradients."""

    @staticmethod
    def forward(ctx: Any, config: MemoryConfig, tokens: Tensor, *given: Tensor) -> Tensor:
        """Tokens (B, N, D) and the parts of `Maps` -> (B, N, D)."""
        maps = Maps(*given)
        unit, scale = over_rms(tokens)
        # Keys, values, rates and queries as one map, the gains of both norms in it.
        weight = torch.cat([side_by_side(maps) * maps.store_gain, maps.queries * maps.retrieve_gain])
        of = linear(unit, weight).contiguous()
        answers, memory = _write_and_read(config, maps, of)
        ctx.config = config
        ctx.save_for_backward(tokens, *maps, unit, scale, weight, of, answers, memory)
        return linear(answers, maps.proj)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """From the gradient of the answer (B, N, D)."""
        saved = ctx.saved_tensors  # once: checkpointing gives them once
        given, made = saved[:-6], saved[-6:]
        # Who calls backward may have begun to cast, or to look on, since.
        with torch.autocast("cpu", enabled=False):
            if not torch.is_grad_enabled() and may_go_by_hand(grad, *saved):
                return (None, *_backward(ctx.config, Maps(*given[1:]), made, grad.contiguous()))
            with torch.enable_grad():
                return (None, *by_autograd(partial(composed, ctx.config), given, ctx.needs_input_grad[1:], grad))


def _backward(config: MemoryConfig, maps: Maps, made: Sequence[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    """Gradients of the tokens and the maps, from that of the answer (B, N, D) and what forward has made."""
    unit, scale, weight, of, answers, memory = made
    by_of, by_initial = _gradient(
        config, maps, of.contiguous(), memory.contiguous(), linear(grad, maps.proj.mT).contiguous()
    )
    rates, stored = len(maps.bias), len(weight) - len(maps.queries)
    by_stored, by_queries = weight_gradient(by_of, unit).split([stored, len(maps.queries)])
    by_proj = weight_gradient(grad, answers)
    folded = Folded(
        initial=by_initial.sum(0),
        stored=by_stored,
        bias=by_of.narrow(-1, stored - rates, rates).sum((0, 1)),
        queries=by_queries.mT,
        proj=by_proj.mT.reshape(len(maps.initial), -1, len(by_proj)),
    )
    by_tokens = over_rms_gradient(unit, scale, linear(by_of, weight.mT))
    return by_tokens, *through_fold(maps, folded)


def _write_and_read(config: MemoryConfig, maps: Maps, of: Tensor) -> tuple[Tensor, Tensor]:
    """What a memory that was written answers, (B, N, D), and the memory, (B, H, d, d).

    Args:
        config: The knobs of the memory.
        maps: Its parameters.
        of: (B, N, 3 D + R), keys, values, logits of the rates without their bias, and queries.
    """
    assert library.LIBRARY is not None
    (batch, count, _), (heads, head) = of.shape, maps.initial.shape[:2]
    wide = -(-head // library.LANES) * library.LANES
    answers, memory = of.new_empty(batch, count, heads * head), of.new_empty(batch, heads, head, head)
    share, threads = 4 * count * wide + 2 * count + 2 * head * wide, torch.get_num_threads()
    room, (bias, initial) = of.new_empty(threads * share), _there(maps.bias, maps.initial)
    library.LIBRARY.convneur_answer(
        *(each.data_ptr() for each in (of, bias, initial, memory, answers, room)),
        *(share, threads, *_sizes(config, maps, of)),
    )
    return answers, memory


def _gradient(config: MemoryConfig, maps: Maps, of: Tensor, memory: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ``of`` and, by image, of the initial memory (B, H, d, d), from that of the answers (B, N, D)."""
    assert library.LIBRARY is not None
    count, head = of.shape[1], maps.initial.shape[1]
    wide = -(-head // library.LANES) * library.LANES
    by_of, by_initial = torch.empty_like(of), torch.empty_like(memory)
    share, threads = 8 * count * wide + 2 * count + 5 * head * wide, torch.get_num_threads()
    room, (bias, initial) = of.new_empty(threads * share), _there(maps.bias, maps.initial)
    library.LIBRARY.convneur_answer_gradient(
        *(each.data_ptr() for each in (of, bias, initial, memory, grad, by_of, by_initial, room)),
        *(share, threads, *_sizes(config, maps, of)),
    )
    return by_of, by_initial


def _there(*weights: Tensor) -> list[Tensor]:
    """The same numbers, contiguous, of their own sign.

    Raises:
        RuntimeError: Where there are none: who shards weights frees them, and C would read what is not there.
    """
    if not all(weight.data_ptr() for weight in weights):
        raise RuntimeError("a weight of the memory was freed; gather it before the memory or its gradient is asked for")
    return [(weight + 0).contiguous() for weight in weights]


def _sizes(config: MemoryConfig, maps: Maps, of: Tensor) -> tuple[int | float, ...]:
    """What C is told last."""
    (batch, count, _), (heads, head) = of.shape, maps.initial.shape[:2]
    step = float(largest_step(config, count, head))
    return batch, count, heads * head, heads, len(maps.bias), config.decay, step, KEY_EPS
