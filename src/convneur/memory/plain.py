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
# Asked forty times per image, so looked up once.
_is_tracing = torch._C._is_tracing
_dispatch_modes = torch._C._len_torch_dispatch_stack
_functorch = torch._C._functorch.peek_interpreter_stack


def is_plain(x: Any, *weights: Tensor) -> bool:
    """Whether these are tensors like any other, and nobody traces, transforms or counts what is done to them."""
    if type(x) is not Tensor:  # a proxy of FX
        return False
    for weight in weights:
        if type(weight) not in _TYPES:  # a part of one on another machine
            return False
    return not (_is_tracing() or _dispatch_modes() or _functorch() is not None or forward_ad._current_level >= 0)


def may_go_by_hand(x: Any, *weights: Tensor) -> bool:
    """Whether what torch composes of operations may be written out: everything plain, and in one precision."""
    if torch.compiler.is_compiling() or not is_plain(x, *weights):
        return False
    dtype = x.dtype
    for weight in weights:
        if weight.dtype is not dtype:
            return False
    return dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(x.device.type)


def by_autograd(
    function: Callable[..., Tensor], given: Sequence[Tensor], needed: Sequence[bool], grad: Tensor
) -> list[Tensor | None]:
    """Gradients of ``function(*given)`` that have gradients in turn; what was written out by hand has none."""
    wanted = [part for part, need in zip(given, needed, strict=True) if need]
    found = iter(torch.autograd.grad(function(*given), wanted, grad, create_graph=True, materialize_grads=True))
    return [next(found) if need else None for need in needed]
