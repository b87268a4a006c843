"""The downsampling convolution, whose patches do not overlap.

Shape letters: B batch, C channels, H W pixels of the map, K kernel size.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models import register_notrace_module
from torch import Tensor, nn

from convneur.memory import FixedLinear, require_eval
from convneur.memory.plain import may_go_by_hand


@register_notrace_module  # FX keeps it whole: it looks at what it is given
class PatchConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with a stride as large as its kernel; parameters, names and results are its own.

    oneDNN lays the weight out anew at each call, which takes up to half of it for one image, and which layout is fast
    follows from the size of the map. A fused one is a product of patches instead (``docs/results/speed.md``).

    Args:
        in_channels: C.
        out_channels: Of what comes out.
        kernel_size: K.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=kernel_size)
        self.product: FixedLinear | None = None
        self.register_load_state_dict_post_hook(_fuse_again)

    def fuse(self) -> PatchConv2d:
        """Make a product of it, for inference alone; timm calls this, too.

        Raises:
            ValueError: In training mode.
        """
        require_eval(self)
        if self.bias is not None and not self.weight.is_meta:  # offloaded
            weight = self.weight.detach().permute(0, 2, 3, 1).flatten(1)
            self.product = FixedLinear(weight, self.bias.detach()).eval().fuse()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H // K, W // K)."""
        if (
            self.product is None
            or torch.is_grad_enabled()
            or not (x.is_cpu and self.product.weight.is_cpu)
            or not may_go_by_hand(x, self.weight)
            or not x.is_contiguous(memory_format=torch.channels_last)  # or the answer would be where the input is not
        ):
            return super().forward(x)
        size, pixels = self.stride[0], x.permute(0, 2, 3, 1)
        height, width = x.shape[2] // size, x.shape[3] // size
        pixels = pixels[:, : height * size, : width * size]
        patches = pixels.unflatten(2, (width, size)).unflatten(1, (height, size)).transpose(2, 3).flatten(3)
        return self.product(patches).permute(0, 3, 1, 2)


def _fuse_again(layer: PatchConv2d, _keys: Any) -> None:
    """What was fused follows the weights that were loaded."""
    if layer.product is not None:
        layer.fuse()
