"""The depthwise convolution is torch's, whatever path it takes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convneur.layers.depthwise import DepthwiseConv2d


def pair(dim: int, kernel_size: int) -> tuple[DepthwiseConv2d, nn.Conv2d]:
    torch.manual_seed(0)
    ours = DepthwiseConv2d(dim, kernel_size).double()
    plain = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim).double()
    plain.load_state_dict(ours.state_dict())
    return ours, plain


@pytest.mark.parametrize("kernel_size", [3, 7])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 5), (4, 3), (6, 6), (7, 7), (3, 9), (12, 10)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_output_and_gradients_are_those_of_torch(kernel_size, size, memory_format):
    ours, plain = pair(5, kernel_size)
    x = torch.randn(3, 5, *size, dtype=torch.float64).contiguous(memory_format=memory_format)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    outputs = [layer(given) for layer, given in zip((ours, plain), inputs, strict=True)]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)
    grad = torch.randn_like(outputs[0])
    for output in outputs:
        output.backward(grad)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.bias.grad, plain.bias.grad, rtol=0, atol=1e-12)


def test_second_derivatives_on_a_small_map():
    ours, _ = pair(2, 7)
    x = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)

    def convolved(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(ours, {"weight": weight, "bias": bias}, x)

    assert torch.autograd.gradcheck(convolved, (x, ours.weight, ours.bias))
    assert torch.autograd.gradgradcheck(convolved, (x, ours.weight, ours.bias))


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
