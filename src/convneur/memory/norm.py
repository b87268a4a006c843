"""Root-mean-square normalisation in the precision of its input.

Shape letters: D channels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convneur.memory import library
from convneur.memory.plain import by_autograd, may_go_by_hand

EPS = 1e-6


class RMSNorm(nn.RMSNorm):
    """`torch.nn.RMSNorm` whose gain follows the input: under autocast torch's would leave its fused kernel, and warn.

    On a CPU, where torch composes norm and gradient of small operations, both are written out.

    Args:
        width: Channels, the last dimension of the input.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        if x.ndim == 3 and library.serve(x, self.weight):
            return unit(x, center=False).mul_(self.weight)
        if x.is_cpu and may_go_by_hand(x, self.weight):  # GPUs have a kernel of their own for it
            return _Norm.apply(x, self.weight) if torch.is_grad_enabled() else over_rms(x)[0].mul_(self.weight)
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), EPS)


def rms_norm(x: Tensor) -> Tensor:
    """``x`` (..., D) over the root of its mean square."""
    if x.is_cpu and may_go_by_hand(x) and not torch.is_grad_enabled():
        return over_rms(x)[0]
    return F.rms_norm(x, x.shape[-1:], None, EPS)


def unit(tokens: Tensor, center: bool) -> Tensor:
    """Tokens (B, N, D), their mean taken off if ``center``, over the root of their mean square.

    Args:
        tokens: (B, N, D).
        center: Whether to take the mean off.
    """
    assert library.LIBRARY is not None
    batch, count, width = tokens.shape
    tokens, threads = tokens.contiguous(), torch.get_num_threads()
    made, room = torch.empty_like(tokens), tokens.new_empty(threads * width)
    library.LIBRARY.convneur_unit(
        tokens.data_ptr(), made.data_ptr(), room.data_ptr(), threads, batch, count, width, center, EPS
    )
    return made


def over_rms(x: Tensor) -> tuple[Tensor, Tensor]:
    """``x`` (..., D) over the root of its mean square, and the scale (..., 1) that it was multiplied with.

    torch's takes ten operations on a CPU.
    """
    eps = _eps_share(x.shape[-1], x.dtype, x.device)
    scale = torch.addcmul(eps, x, x, value=1 / x.shape[-1]).sum(-1, keepdim=True).rsqrt_()
    return x * scale, scale


@lru_cache(maxsize=64)
def _eps_share(width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What each of ``width`` channels adds to a mean that must not be zero, as a tensor ()."""
    with torch.inference_mode(False):
        return torch.full((), EPS / width, dtype=dtype, device=device)


def over_rms_gradient(unit: Tensor, scale: Tensor, grad: Tensor) -> Tensor:
    """Gradient of ``x`` (..., D) from that of ``unit``, for what `over_rms` gave."""
    return (grad - unit * (unit * grad).mean(-1, keepdim=True)).mul_(scale)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor) -> Tensor:
        unit, scale = over_rms(x)
        ctx.save_for_backward(x, gain, unit, scale)
        return unit * gain

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, unit, scale = ctx.saved_tensors
        if torch.is_grad_enabled():
            return tuple(by_autograd(_composed, (x, gain), ctx.needs_input_grad, grad))
        return over_rms_gradient(unit, scale, grad * gain), (grad * unit).flatten(0, -2).sum(0)


def _composed(x: Tensor, gain: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], gain, EPS)
