"""The depthwise convolution is torch's, whatever path it takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convneur import ops
from convneur.layers import depthwise
from convneur.layers.depthwise import DepthwiseConv2d
from tests.layers.builders import watched

SIZES = [(1, 1), (2, 2), (1, 5), (4, 3), (6, 6), (7, 7), (3, 9), (12, 10)]


def pair(dim: int, kernel_size: int) -> tuple[DepthwiseConv2d, nn.Conv2d]:
    torch.manual_seed(0)
    ours = DepthwiseConv2d(dim, kernel_size).double()
    plain = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim).double()
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def assert_same(ours: nn.Conv2d, plain: nn.Conv2d, x: torch.Tensor) -> None:
    """Output and all gradients."""
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    outputs = [layer(given) for layer, given in zip((ours, plain), inputs, strict=True)]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)
    grad = torch.randn_like(outputs[0])
    for output in outputs:
        output.backward(grad)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.bias.grad, plain.bias.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel_size", [3, 7])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_output_and_gradients_are_those_of_torch(kernel_size, size, memory_format):
    ours, plain = pair(5, kernel_size)
    x = torch.randn(3, 5, *size, dtype=torch.float64).contiguous(memory_format=memory_format)
    with watched(depthwise._SmallMapConv, "backward") as calls:
        assert_same(ours, plain, x)
    assert len(calls) == (max(size) < kernel_size)


SETTINGS: dict[str, dict[str, Any]] = {
    "reflected": {"padding_mode": "reflect"},
    "replicated": {"padding_mode": "replicate"},
    "circular": {"padding_mode": "circular"},
    "dilated": {"dilation": (2, 2), "padding": (6, 6)},
    "unpadded": {"padding": (0, 0)},
    "padded more": {"padding": (5, 4)},
    "padded by a number": {"padding": 2},
    "padded by name": {"padding": "same"},
    "strided": {"stride": (2, 3)},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("size", [(4, 5), (5, 4), (6, 6), (12, 9)])
def test_settings_that_are_changed_later_count(settings, size):
    """Below the size of the kernel and above it."""
    ours, plain = pair(4, 7)
    for layer in (ours, plain):
        for name, value in settings.items():
            setattr(layer, name, value)
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    try:
        plain(x)
    except RuntimeError:  # this padding mode does not pad by so much, or nothing is left
        with pytest.raises(RuntimeError):
            ours(x)
    else:
        assert_same(ours, plain, x)


def test_second_derivatives_on_a_small_map():
    ours, _ = pair(2, 7)
    x = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)

    def convolved(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(ours, {"weight": weight, "bias": bias}, x)

    assert torch.autograd.gradcheck(convolved, (x, ours.weight, ours.bias))
    assert torch.autograd.gradgradcheck(convolved, (x, ours.weight, ours.bias))


@pytest.mark.parametrize("size", [(3, 4), (9, 8)])
def test_transforms_give_what_torch_gives(size):
    ours, plain = pair(2, 7)
    x = torch.randn(2, 3, 2, *size, dtype=torch.float64)
    results = []
    for layer in (ours, plain):
        weights = dict(layer.named_parameters())

        def loss(weights: dict[str, torch.Tensor], x: torch.Tensor, layer: nn.Module = layer) -> torch.Tensor:
            return torch.func.functional_call(layer, weights, x).square().sum()

        slopes = torch.func.grad(loss)(weights, x[0])
        of_samples = torch.vmap(torch.func.grad(loss), (None, 0))(weights, x)
        _, tangent = torch.func.jvp(layer, (x[0],), (x[1],))
        results.append([slopes, of_samples, tangent, torch.vmap(layer)(x).detach()])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_only_what_is_asked_for_gets_a_gradient(frozen):
    ours, _ = pair(2, 7)
    getattr(ours, frozen).requires_grad_(False)
    ours(torch.randn(1, 2, 3, 3, dtype=torch.float64)).sum().backward()
    assert {name for name, value in ours.named_parameters() if value.grad is None} == {frozen}


def test_autocast_gives_what_torch_gives():
    ours, plain = pair(4, 7)
    ours, plain, x = ours.float(), plain.float(), torch.randn(2, 4, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(ours(x), plain(x), rtol=0, atol=0)


def test_counters_see_the_convolution():
    counts = []
    for layer in pair(4, 7):
        with FlopCounterMode(display=False) as counter:
            layer(torch.randn(2, 4, 3, 3, dtype=torch.float64)).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_an_empty_batch():
    ours, _ = pair(4, 7)
    for kernels in (True, False):
        with ops.use_kernels(kernels):
            assert ours(torch.empty(0, 4, 3, 3, dtype=torch.float64)).shape == (0, 4, 3, 3)
