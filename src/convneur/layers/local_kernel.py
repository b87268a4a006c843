"""The local branch of a fused block on a CPU, by one call of C (``local_block.c``) where PyTorch takes five operations.

A group of pixels goes through depthwise convolution, norm and both linear maps before the next one begins. So the
hidden map, four times as large as the map, never leaves the cache, and no thread waits for what another makes
(``docs/results/speed.md``).

Shape letters: B batch, C channels, H W pixels of the map, E hidden channels, P columns of a panel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convneur.memory.library import ARRAY, COUNT, INT, NUMBER, load_library
from convneur.memory.plain import may_go_by_hand
from convneur.memory.products import MKL_AT_HOME

LANES, PANEL, APART, KERNEL = {"avx2": 8, "avx512": 16}, 2, 16, 7  # as in local_block.c, PANEL in lanes
_ARGUMENTS = [ARRAY] * 9 + [INT] * 2 + [COUNT] * 6 + [NUMBER]
# Of the convolution.
SETTINGS = {"stride": (1, 1), "padding": (KERNEL // 2,) * 2, "dilation": (1, 1), "padding_mode": "zeros"}
# Pixels that a thread should have: with fewer, bringing up the weights is what it does.
ENOUGH = 12
# On an Intel processor oneDNN is up to a sixth faster, of as many channels and multiply-accumulates and more.
WIDE_FOR_INTEL, LARGE_FOR_INTEL = 256, 2**29
# Pixels at a time: few enough for the second-level cache, more where the weights do not fit there either.
GROUP, GROUP_OF_WIDE, WIDE = 28, 56, 2048

LIBRARY = load_library(
    Path(__file__).with_name("local_block.c"), {f"convneur_local_{name}": _ARGUMENTS for name in LANES}
)
PROCESSOR = "avx512" if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else "avx2"


class LocalWeights(NamedTuple):
    """The weights of a local branch as the kernel wants them: norm and layer scale are folded into the maps.

    Attributes:
        filters: (7, 7, C).
        filter_bias: (C,).
        map1: Ceil(E / P) panels of (C, P).
        bias1: A number for each column of the panels.
        map2: Ceil(C / P) panels of (E, P).
        bias2: Likewise.
        eps: Of the norm.
    """

    filters: Tensor
    filter_bias: Tensor
    map1: Tensor
    bias1: Tensor
    map2: Tensor
    bias2: Tensor
    eps: float


def lay_out(conv: nn.Conv2d, norm: nn.LayerNorm, fc1: nn.Linear, fc2: nn.Linear, scale: Tensor) -> LocalWeights | None:
    """Weights of depthwise convolution, norm, both maps and layer scale (C,), if the kernel takes such."""
    channels, hidden = len(scale), len(fc1.weight)
    given: list[tuple[Tensor | None, tuple[int, ...]]] = [
        (conv.weight, (channels, 1, KERNEL, KERNEL)),
        *((each, (channels,)) for each in (conv.bias, norm.weight, norm.bias, fc2.bias, scale)),
        (fc1.weight, (hidden, channels)),
        (fc1.bias, (hidden,)),
        (fc2.weight, (channels, hidden)),
    ]
    if (
        LIBRARY is None
        or channels < LANES[PROCESSOR]
        or any(getattr(conv, name) != value for name, value in SETTINGS.items())
        or not all(_is_taken(*each) for each in given)
    ):
        return None
    with torch.no_grad():
        map1, bias1 = fc1.weight * norm.weight, torch.addmv(fc1.bias, fc1.weight, norm.bias)
        return LocalWeights(
            conv.weight.detach().flatten(1).t().contiguous(),
            _own(conv.bias),
            *_panels(map1, bias1),
            *_panels(scale[:, None] * fc2.weight, scale * fc2.bias),
            norm.eps,
        )


def _is_taken(weight: Tensor | None, shape: tuple[int, ...]) -> bool:
    """Whether this is a tensor like any other of that shape."""
    return (
        weight is not None
        and type(weight) in (Tensor, nn.Parameter)
        and (weight.shape, weight.dtype, weight.device.type) == (shape, torch.float32, "cpu")
        and not weight.is_neg()
    )


def _own(numbers: Any) -> Tensor:
    return numbers.detach().clone(memory_format=torch.contiguous_format)


def _panels(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """(outputs, inputs) and (outputs,) -> (panels, inputs, columns), and a bias that is as long."""
    columns = PANEL * LANES[PROCESSOR]
    missing = -len(weight) % columns
    panels = F.pad(weight, (0, 0, 0, missing)).unflatten(0, (-1, columns)).mT.contiguous()
    return panels, F.pad(bias, (0, missing)).contiguous()


def leaves_large(channels: int) -> bool:
    """Whether maps of so many channels are PyTorch's where they have many pixels."""
    return MKL_AT_HOME and channels >= WIDE_FOR_INTEL


def serves(weights: LocalWeights, x: Tensor) -> bool:
    """Whether the kernel takes this map, (B, C, H, W): inference, in float32, channels last, nobody tracing."""
    return (
        not torch.is_grad_enabled()
        and may_go_by_hand(x, weights.map1)
        and x.is_cpu
        and x.ndim == 4
        and x.shape[1] == len(weights.filter_bias)
        and x.numel() > 0
        and not x.is_neg()
        and x.is_contiguous(memory_format=torch.channels_last)
        and not (leaves_large(x.shape[1]) and 2 * x.numel() * weights.map2.shape[1] > LARGE_FOR_INTEL)
    )


def local(weights: LocalWeights, x: Tensor, residual: bool) -> Tensor:
    """The local branch with its layer scale, of a map that `serves`; (B, C, H, W), channels last.

    Args:
        weights: What `lay_out` gives.
        x: (B, C, H, W), channels last.
        residual: Whether the map itself is added.
    """
    batch, channels, height, width = x.shape
    hidden = weights.map2.shape[1]
    threads = max(1, min(torch.get_num_threads(), batch * height * width // ENOUGH))
    group = GROUP if hidden <= WIDE else GROUP_OF_WIDE
    out = torch.empty_like(x, memory_format=torch.channels_last)
    room = x.new_empty(threads * group * (channels + hidden + 2 * APART))
    getattr(LIBRARY, f"convneur_local_{PROCESSOR}")(
        x.data_ptr(),
        weights.filters.data_ptr(),
        weights.filter_bias.data_ptr(),
        weights.map1.data_ptr(),
        weights.bias1.data_ptr(),
        weights.map2.data_ptr(),
        weights.bias2.data_ptr(),
        out.data_ptr(),
        room.data_ptr(),
        residual,
        threads,
        batch,
        height,
        width,
        channels,
        hidden,
        group,
        weights.eps,
    )
    return out
