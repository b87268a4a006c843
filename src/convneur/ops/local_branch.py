"""The local branch of a block: 7x7 depthwise convolution, LayerNorm, C -> 4C, GELU, 4C -> C.

    out = fc2( gelu( fc1( layer_norm( conv(x) ) ) ) ) [+ x]

The LayerNorm has no gain and bias of its own: they are folded into fc1, as a layer scale may be into fc2. The kernel
takes some pixels through all of it before the next ones begin, so the hidden feature map never leaves the cache. It
wants the weights in panels (`prepack`), which are of one processor; the operation itself takes them plain.

Shape letters: B batch, C channels, H W pixels of the feature map, E hidden channels, P columns of a panel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convneur.ops._library import AVX512, FLOAT, FLOATS, INT, LANES, Operation, kernel_function, why_not_kernel
from convneur.ops.linear import linear

KERNEL, PANEL, PADDING = 7, 2 * LANES, 16  # P; floats between two rows of the workspace, as in csrc/local_branch.c
# Pixels at a time: few enough for the second-level cache, more where the weights do not fit there either.
GROUP, GROUP_OF_WIDE, WIDE = 28, 56, 2048
ENOUGH = 12  # pixels that a thread should have: with fewer, loading the weights is what it does


def reference(
    x: Tensor,
    filters: Tensor,
    filter_bias: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    eps: float,
    residual: bool,
) -> Tensor:
    """The formula.

    Args:
        x: (B, C, H, W).
        filters: (C, 1, 7, 7).
        filter_bias: (C,).
        weight1: (E, C).
        bias1: (E,).
        weight2: (C, E).
        bias2: (C,).
        eps: Of the LayerNorm.
        residual: Whether x is added.

    Returns:
        (B, C, H, W), channels last.
    """
    channels = len(filters)
    made = F.conv2d(x, filters, filter_bias, padding=KERNEL // 2, groups=channels).permute(0, 2, 3, 1)
    made = linear.reference(F.layer_norm(made, (channels,), eps=eps), weight1, bias1, True)
    made = linear.reference(made, weight2, bias2, False)
    made = made.permute(0, 3, 1, 2)
    return made + x if residual else made


def prepack(
    filters: Tensor, filter_bias: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor
) -> list[Tensor]:
    """The weights of `reference` as the kernel wants them: (7, 7, C), (C,), and panels and bias of both layers."""
    taps = filters.flatten(1).t().unflatten(0, (KERNEL, KERNEL)).contiguous()
    return [taps, filter_bias.contiguous(), *_panels(weight1, bias1), *_panels(weight2, bias2)]


def unpack(packed: Sequence[Tensor]) -> list[Tensor]:
    """The reverse of `prepack`."""
    taps, filter_bias, panels1, bias1, panels2, bias2 = packed
    channels, hidden = panels1.shape[1], panels2.shape[1]
    return [
        *(taps.flatten(0, 1).t().reshape(channels, 1, KERNEL, KERNEL), filter_bias),
        *(panels1.mT.flatten(0, 1)[:hidden], bias1[:hidden]),
        *(panels2.mT.flatten(0, 1)[:channels], bias2[:channels]),
    ]


def _panels(weight: Tensor, bias: Tensor) -> list[Tensor]:
    """(outputs, inputs) and (outputs,) -> (panels, inputs, P), and a bias that is padded like the last panel."""
    missing = -len(weight) % PANEL
    panels = F.pad(weight, (0, 0, 0, missing)).unflatten(0, (-1, PANEL)).mT.contiguous()
    return [panels, F.pad(bias, (0, missing)).contiguous()]


def run_prepacked(x: Tensor, packed: Sequence[Tensor], eps: float, residual: bool) -> Tensor:
    """What `reference` gives, from what `prepack` gives."""
    x = x.contiguous(memory_format=torch.channels_last)
    (batch, channels, height, width), hidden = x.shape, packed[4].shape[1]
    threads = max(1, min(torch.get_num_threads(), batch * height * width // ENOUGH))
    group = GROUP if hidden <= WIDE else GROUP_OF_WIDE
    out = torch.empty_like(x)
    workspace = x.new_empty(threads * group * (channels + hidden + 2 * PADDING))
    _FUNCTION(
        *[array.data_ptr() for array in (x, *packed, out, workspace)],
        *(residual, threads, batch, height, width, channels, hidden, group, eps),
    )
    return out


def why_not_prepacked(x: Tensor, packed: Sequence[Tensor]) -> str | None:
    """Why `run_prepacked` does not take these, or None."""
    if packed[2].shape[-1] != PANEL:
        return "the weights were prepacked on another kind of processor"
    return local_branch.missing or why_not_kernel(x, *packed) or _fits(x, packed[1].shape[0])


def _fits(x: Tensor, channels: int) -> str | None:
    if x.ndim != 4 or x.shape[1] != channels:
        return f"the input has no {channels} channels"
    return f"there are fewer than {LANES} channels" if channels < LANES else None


def _suits(x: Tensor, filters: Tensor, filter_bias: Tensor, *linear_layers: Any) -> str | None:
    weight1, bias1, weight2, bias2, _eps, _residual = linear_layers
    channels, hidden = len(filter_bias), len(bias1)
    shapes = [tuple(each.shape) for each in (filters, weight1, bias1, weight2, bias2)]
    if shapes != [(channels, 1, KERNEL, KERNEL), (hidden, channels), (hidden,), (channels, hidden), (channels,)]:
        return "the weights are of other shapes"
    return _fits(x, channels)


def _kernel(x: Tensor, *args: Any) -> Tensor:
    return run_prepacked(x, prepack(*args[:-2]), *args[-2:])


_FUNCTION = kernel_function(f"convneur_local_branch_{'avx512' if AVX512 else 'avx2'}", *[FLOATS] * 9, *[INT] * 8, FLOAT)
local_branch = Operation(
    "local_branch(Tensor x, Tensor filters, Tensor filter_bias, Tensor weight1, Tensor bias1, Tensor weight2, "
    "Tensor bias2, float eps, bool residual) -> Tensor",
    reference,
    _kernel,
    _suits,
)
