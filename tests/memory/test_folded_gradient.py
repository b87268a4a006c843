"""Gradients that are written out: their own gradients, and who gets torch's instead. The oracle is in test_fuse."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convneur.memory import Linear, Maps, MemoryConfig, NeuralMemory, RMSNorm, answer, maps_of

WIDTH = 8


def stirred(**knobs) -> tuple[MemoryConfig, Maps]:
    torch.manual_seed(0)
    memory = NeuralMemory(WIDTH, MemoryConfig(heads=2, **knobs)).double()
    proj = Linear(WIDTH, WIDTH, bias=False).double()
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    maps = maps_of(memory, proj)
    assert maps is not None
    return memory.config, maps


def tokens(count: int) -> Tensor:
    return torch.randn(2, count, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("count", [3, 11])
@pytest.mark.parametrize("knobs", [{}, {"decay": False}])
def test_second_derivatives(count, knobs):
    config, maps = stirred(**knobs)
    given = [tokens(count).requires_grad_(), *(part.detach().requires_grad_() for part in maps)]
    assert torch.autograd.gradgradcheck(lambda z, *maps: answer(config, Maps(*maps), z), given)


def test_frozen_maps_pass_the_gradient_on():
    config, maps = stirred()
    expected = tokens(5).requires_grad_()
    answer(config, maps, expected).square().sum().backward()
    got = tokens(5).requires_grad_()
    answer(config, Maps(*(part.detach() for part in maps)), got).square().sum().backward()
    torch.testing.assert_close(got.grad, expected.grad)


def test_transforms_see_what_torch_does():
    config, maps = stirred()

    def loss(z: Tensor) -> Tensor:
        return answer(config, maps, z).square().sum()

    given = tokens(5).requires_grad_()
    loss(given).backward()
    torch.testing.assert_close(torch.func.grad(loss)(tokens(5)), given.grad)
    per_image = torch.func.vmap(torch.func.grad(lambda z: loss(z[None])))(tokens(5))
    torch.testing.assert_close(per_image, given.grad)


def test_the_norm_is_torch_s():
    torch.manual_seed(0)
    norm, x = RMSNorm(WIDTH).double(), tokens(5)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(WIDTH))
        x[0, 0] = 0
    expected = F.rms_norm(x, (WIDTH,), norm.weight, 1e-6)
    torch.testing.assert_close(norm(x), expected)
    with torch.inference_mode():
        torch.testing.assert_close(norm(x), expected)
    x.requires_grad_()
    assert type(norm(x).grad_fn).__name__ == "_NormBackward"
    leaves = (x, norm.weight)

    def call(x: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(norm, {"weight": weight}, (x,))

    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)
    half = norm.bfloat16()(x.bfloat16())
    torch.testing.assert_close(half.double(), expected, rtol=0.02, atol=0.02)
