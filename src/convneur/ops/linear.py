"""A linear layer over the channels of a feature map, with its GELU: y = x W^T + b, or gelu(y).

On a CPU `torch.nn.functional.linear` calls MKL, which on an AMD processor takes half as long again as oneDNN; timm's
ConvNeXt, whose pointwise layers are 1x1 convolutions, gets oneDNN. So the reference is a 1x1 convolution, too. The
kernel is oneDNN's matmul, which spares reordering the weight at each call, with the GELU in place.

Shape letters: B batch, C input channels, E output channels, H W pixels of the feature map.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convneur.ops._library import AVX512, Operation

# Both names are private. Should they be gone, the reference takes over.
_ONEDNN: Any = getattr(getattr(torch.ops.mkldnn, "_linear_pointwise", None), "default", None)


def reference(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    """The formula.

    Args:
        x: (B, H, W, C).
        weight: (E, C).
        bias: (E,), or None.
        gelu: Whether a GELU follows.

    Returns:
        (B, H, W, E).
    """
    y = F.conv2d(x.permute(0, 3, 1, 2), weight[:, :, None, None], bias).permute(0, 2, 3, 1)
    return F.gelu(y) if gelu else y


def _kernel(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    if gelu and AVX512:  # with AVX2 alone oneDNN's GELU takes longer than torch's
        return _ONEDNN(x, weight, bias, "gelu", [], "none")
    y = _ONEDNN(x, weight, bias, "none", [], "")
    return torch.ops.aten.gelu_.default(y) if gelu else y


def _suits(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> str | None:
    if not torch.backends.mkldnn.enabled:
        return "oneDNN is switched off"
    if x.ndim != 4 or weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
        return "shapes do not fit"
    if bias is not None and (bias.shape != weight.shape[:1] or not bias.is_contiguous()):  # oneDNN ignores its strides
        return "the bias does not fit, or is not contiguous"
    return None if x.is_contiguous() else "the feature map is not channels-last"


def _missing() -> str | None:
    if not torch.backends.mkldnn.is_available() or _ONEDNN is None:
        return "this PyTorch has no oneDNN matmul"
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return "oneDNN is ahead with AVX2 or more, and this processor has none"
    return None


linear = Operation(
    "linear(Tensor x, Tensor weight, Tensor? bias, bool gelu) -> Tensor",
    reference,
    _kernel,
    _suits,
    _missing(),
)
