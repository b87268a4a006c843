"""Root-mean-square normalisation in few operations, in the precision of its input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """`torch.nn.RMSNorm` whose gain follows the input: under autocast torch's would leave its fused kernel, and warn.

    On a CPU torch has no fused kernel and takes ten small operations where five will do. Half precision stays torch's,
    which sums the squares in float32.

    Args:
        width: Channels, the last dimension of the input.
    """

    EPS = 1e-6

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=self.EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return rms_norms(x, self)[0]


def rms_norms(x: Tensor, *norms: RMSNorm) -> list[Tensor]:
    """Several norms of the same (..., D), which differ in their gains: what they share is done once."""
    if x.device.type != "cpu" or x.dtype in (torch.float16, torch.bfloat16):
        return [F.rms_norm(x, norm.normalized_shape, norm.weight.to(x.dtype), RMSNorm.EPS) for norm in norms]
    width = x.shape[-1]
    unit = x * inverse_length(x, RMSNorm.EPS * width)
    return [unit * (norm.weight * width**0.5) for norm in norms]


def inverse_length(x: Tensor, eps: float) -> Tensor:
    """``1 / sqrt(|x|^2 + eps)`` over the last dimension, (..., 1); summed in float32 at least."""
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    inverse = (wide * wide).sum(-1, keepdim=True).add_(eps).rsqrt_()
    return inverse if wide is x else inverse.to(x.dtype)
