"""Whether tensors are like any other, so that what torch does to them may be done by other means.

What compilers, exporters, functorch and counters of operations should see is torch's own operators, and what is not in
one precision is left to torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

_TYPES = (Tensor, nn.Parameter)


def is_plain(x: Any, *weights: Tensor) -> bool:
    """Whether these are tensors like any other, and nobody traces, transforms or counts what is done to them."""
    return (
        type(x) is Tensor  # not a proxy of FX
        and all(type(weight) in _TYPES for weight in weights)  # not a part of one on another machine
        and not torch._C._is_tracing()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0
    )


def may_go_by_hand(x: Any, *weights: Tensor) -> bool:
    """Whether what torch composes of operations may be written out: everything plain, and in one precision."""
    return (
        not torch.compiler.is_compiling()
        and is_plain(x, *weights)
        and x.dtype in (torch.float32, torch.float64)
        and all(weight.dtype is x.dtype for weight in weights)
        and not torch.is_autocast_enabled(x.device.type)
    )


def by_autograd(
    function: Callable[..., Tensor], given: Sequence[Tensor], needed: Sequence[bool], grad: Tensor
) -> list[Tensor | None]:
    """Gradients of ``function(*given)`` that have gradients in turn; what was written out by hand has none."""
    wanted = [part for part, need in zip(given, needed, strict=True) if need]
    found = iter(torch.autograd.grad(function(*given), wanted, grad, create_graph=True, materialize_grads=True))
    return [next(found) if need else None for need in needed]
