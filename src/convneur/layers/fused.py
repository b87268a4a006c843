"""The local branch of a block for inference on a CPU, with prepacked weights.

Shape letters: B batch, C channels, H W pixels of the feature map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convneur import ops
from convneur.layers.depthwise import DepthwiseConv2d
from convneur.layers.guards import untouched
from convneur.layers.mlp import PointwiseMlp
from convneur.ops._library import LANES
from convneur.ops.local_branch import prepack, run_prepacked, unpack, why_not_prepacked

_NAMES = ("filters", "filter_bias", "panels1", "bias1", "panels2", "bias2")


class FusedLocalBranch(nn.Module):
    """Depthwise convolution, norm, MLP and what follows them as one operation.

    It is frozen: it holds copies of the weights, so weights of the layers that it stands for may be changed afterwards
    without effect, their hooks are not called, and they get no gradients. It has no entries in the state dict. The
    output is the same in every memory format and, but for rounding, precision; only float32 on a CPU is fast.

    Args:
        conv: Depthwise convolution.
        norm: LayerNorm.
        mlp: Both linear layers.
        gamma: Layer scale (C,) to fold in and the input added, or None for neither.
    """

    def __init__(self, conv: DepthwiseConv2d, norm: nn.LayerNorm, mlp: PointwiseMlp, gamma: Tensor | None) -> None:
        super().__init__()
        self.eps, self.residual = norm.eps, gamma is not None
        with torch.inference_mode(False), torch.no_grad():  # plain tensors, wherever this is called
            weight1, bias1 = mlp.fc1.weight * norm.weight, torch.addmv(mlp.fc1.bias, mlp.fc1.weight, norm.bias)
            weight2, bias2 = mlp.fc2.weight.clone(), mlp.fc2.bias.clone()
            if gamma is not None:
                weight2, bias2 = gamma[:, None] * weight2, gamma * bias2
            filters, filter_bias = (conv.get_parameter(name).detach().clone() for name in ("weight", "bias"))
            packed = prepack(filters, filter_bias, weight1, bias1, weight2, bias2)
        for name, numbers in zip(_NAMES, packed, strict=True):
            self.register_buffer(name, numbers, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), channels last."""
        packed = [self.get_buffer(name) for name in _NAMES]
        if why_not_prepacked(x, packed) is None:
            return run_prepacked(x, packed, self.eps, self.residual)
        return ops.local_branch(x, *unpack(packed), self.eps, self.residual)

    def layers(self) -> tuple[DepthwiseConv2d, nn.LayerNorm, PointwiseMlp]:
        """Layers with the frozen weights that compute the same, but for the input that may be added.

        Gain and bias of the norm, and the layer scale, stay folded into the linear layers.
        """
        weights = unpack([self.get_buffer(name) for name in _NAMES])
        filters, filter_bias, weight1, bias1, weight2, bias2 = (nn.Parameter(each, False) for each in weights)
        channels = len(filter_bias)
        with torch.device("meta"):  # the weights that layers begin with are not needed
            conv, mlp = DepthwiseConv2d(channels), PointwiseMlp(channels)
        conv.weight, conv.bias = filters, filter_bias
        mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias = weight1, bias1, weight2, bias2
        return conv, nn.LayerNorm(channels, self.eps), mlp


def fusible(conv: nn.Module, norm: nn.Module, mlp: nn.Module) -> bool:
    """Whether `FusedLocalBranch` may stand for these, and would be faster."""
    return (
        isinstance(conv, DepthwiseConv2d)
        and untouched(conv, (DepthwiseConv2d,))
        and conv.is_same()
        and conv.kernel_size == (7, 7)
        and conv.in_channels >= LANES
        and isinstance(norm, nn.LayerNorm)
        and untouched(norm, (nn.LayerNorm,))
        and norm.normalized_shape == (conv.in_channels,)
        and type(mlp) is PointwiseMlp
        and untouched(mlp, mlp.built)
        and mlp.act.approximate == "none"
        and ops.local_branch.missing is None
        and all(
            weight is not None
            and type(weight) is nn.Parameter
            and weight.is_cpu
            and weight.dtype is torch.float32
            and not weight.is_neg()
            for layer in (conv, norm, mlp.fc1, mlp.fc2)
            for weight in (layer.weight, layer.bias)
        )
    )
