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
        if x.device.type != "cpu" or x.dtype in (torch.float16, torch.bfloat16):
            return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.EPS)
        width = x.shape[-1]
        return x * inverse_length(x, self.EPS * width) * (self.weight * width**0.5)


def inverse_length(x: Tensor, eps: float) -> Tensor:
    """``1 / sqrt(|x|^2 + eps)`` over the last dimension, (..., 1); summed in float32 at least."""
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return torch.rsqrt((wide * wide).sum(-1, keepdim=True) + eps).to(x.dtype)
