"""The depthwise convolution of a block, with a weight gradient that is fast on maps smaller than the kernel.

On a CPU oneDNN has no fast code for the weight gradient of a depthwise convolution whose kernel is larger than the
feature map, as the last stages of small images have: a quarter of a training step of convneur_m1 at 64 px went there
(``docs/results/depthwise.md``). Here it is written as matmuls.

Shape letters: B batch, C channels, H W pixels of the feature map, P = HW, K kernel size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convneur.ops import why_not_kernel


class DepthwiseConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with one filter per channel and "same" padding; parameters, names and results are its own.

    Training on a CPU, maps smaller than the kernel take `_SmallMapConv`, unless the call is traced or transformed: no
    graph depends on the size of the map.

    Args:
        dim: C.
        kernel_size: K, odd.
    """

    def __init__(self, dim: int, kernel_size: int = 7) -> None:
        super().__init__(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if (
            torch.is_grad_enabled()
            and why_not_kernel() is None  # before sizes are asked for, which a trace would record
            and type(x) is Tensor
            and self.weight.requires_grad
            and max(x.shape[-2:]) < self.kernel_size[0]
            and x.numel() > 0
            and x.device.type == "cpu"
            and self.is_same()
        ):
            return _SmallMapConv.apply(x, self.weight, self.bias)
        return super().forward(x)

    def is_same(self) -> bool:
        """Whether the settings are those that it was built with."""
        same = self.kernel_size[0] // 2
        return (self.stride, self.padding, self.dilation, self.padding_mode) == ((1, 1), (same, same), (1, 1), "zeros")


class _SmallMapConv(torch.autograd.Function):
    """Depthwise convolution whose weight gradient is a product per channel: every pixel of one map with every other."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        kernel, padding, (height, width) = weight.shape[-1], weight.shape[-1] // 2, x.shape[-2:]
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            # The adjoint of a "same" convolution of odd kernel is the convolution with the filters turned around.
            grad_x = F.conv2d(grad, weight.flip(2, 3), padding=padding, groups=len(weight))
        if ctx.needs_input_grad[1]:
            # Of all P x P products of a gradient and an input pixel, the filter sums those of equal offset.
            # Copying channels to the front first is several times faster than strided operands.
            grads, inputs = (maps.transpose(0, 1).contiguous().flatten(2) for maps in (grad, x))  # (C, B, P)
            products = grads.mT @ inputs  # (C, P, P)
            summed = products.flatten(1) @ _offsets(height, width, kernel).to(products)
            grad_weight = summed.view_as(weight)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 2, 3))
        return grad_x, grad_weight, grad_bias


def _offsets(height: int, width: int, kernel: int) -> Tensor:
    """(P * P, K * K), one where the second of two pixels lies at that place of a filter centred on the first."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    down, right = (places.flatten()[None] - places.flatten()[:, None] + kernel // 2 for places in (rows, columns))
    inside = (down >= 0) & (down < kernel) & (right >= 0) & (right < kernel)
    return F.one_hot(torch.where(inside, down * kernel + right, kernel**2).flatten(), kernel**2 + 1)[:, :-1]
