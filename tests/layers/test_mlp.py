"""The MLP of a block is its two linear layers and a GELU, whoever computes them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize

from convneur import ops
from convneur.layers.mlp import PointwiseMlp
from tests.layers.builders import stirred, watched
from tests.layers.test_global_branch import Ramped, RampedLinear, ramp
from tests.ops.cases import close

SIZES = [(1, 1), (3, 5), (14, 13)]


def mlp(channels: int = 12) -> PointwiseMlp:
    torch.manual_seed(3)
    return stirred(PointwiseMlp(channels))


def layer_by_layer(module: PointwiseMlp, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(
        nn.functional.gelu(
            nn.functional.linear(x, module.fc1.weight, module.fc1.bias), approximate=module.act.approximate
        ),
        module.fc2.weight,
        module.fc2.bias,
    )


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("channels", [1, 12, 63])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels_last", [True, False])
def test_it_is_its_layers(size, channels, channels_last, kernels):
    """In float32 and float64, and as a training step computes it."""
    module, x = mlp(channels), torch.randn(2, *size, channels)
    x = x if channels_last else x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    double = copy.deepcopy(module).double()
    exact = x.double().requires_grad_()
    expected = layer_by_layer(double, exact)
    by = torch.randn_like(expected)
    slopes = torch.autograd.grad((expected * by).sum(), [exact, *double.parameters()])
    with ops.use_kernels(kernels):
        with torch.inference_mode():
            close(module(x), expected)
            close(double(exact), expected, 1e-9)
            close(copy.deepcopy(module).bfloat16()(x.bfloat16()), expected, 0.05)
        recorded = x.clone().requires_grad_()
        found = module(recorded)
        close(found, expected)
        close(list(torch.autograd.grad((found * by).sum(), [recorded, *module.parameters()])), list(slopes), 1e-4)


def test_autocast():
    module, x = mlp(), torch.randn(2, 5, 3, 12)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = module(x)
    assert found.dtype is torch.bfloat16
    close(found, layer_by_layer(module, x), 0.05)


def _other_class(module: PointwiseMlp) -> None:
    other = RampedLinear(12, 48)
    other.load_state_dict(module.fc1.state_dict())
    module.fc1 = other


def _other_forward(module: PointwiseMlp) -> None:
    forward = module.fc1.forward
    module.fc1.forward = lambda x: ramp(forward(x)) * forward(x)


def _hook(module: PointwiseMlp) -> None:
    module.fc1.register_forward_hook(lambda _layer, _given, out: ramp(out) * out)


def _parametrized(module: PointwiseMlp) -> None:
    parametrize.register_parametrization(module.fc1, "weight", Ramped())
    parametrize.register_parametrization(module.fc1, "bias", Ramped())


@pytest.mark.parametrize("change", [_other_class, _other_forward, _hook, _parametrized])
def test_what_is_put_in_the_place_of_a_layer_counts(change):
    module, x = mlp(), torch.randn(2, 5, 3, 12)
    merged = copy.deepcopy(module)
    with torch.inference_mode():
        for parameter in merged.fc1.parameters():
            parameter.copy_(Ramped()(parameter))
        change(module)
        close(module(x), layer_by_layer(merged, x))


CHANGED_ACTIVATIONS: list[Callable[[PointwiseMlp], None]] = [
    lambda module: setattr(module.act, "approximate", "tanh"),
    lambda module: setattr(module, "act", nn.GELU("tanh")),
]


@pytest.mark.parametrize("change", CHANGED_ACTIVATIONS)
def test_another_gelu_counts(change):
    module, x = mlp(), torch.randn(2, 5, 3, 12)
    before = module(x)
    change(module)
    with torch.inference_mode():
        close(module(x), layer_by_layer(module, x), 1e-6)
        assert not torch.allclose(module(x), before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["fc1", "act", "fc2"])
def test_a_hook_that_only_watches_is_called(name):
    module, x, seen = mlp(), torch.randn(2, 5, 3, 12), []
    with torch.inference_mode(), watched(nn.Linear, "forward") as calls:
        module(x)
        assert not calls
        handle = module.get_submodule(name).register_forward_hook(lambda layer, *_: seen.append(layer))
        close(module(x), layer_by_layer(module, x))
        assert seen == [module.get_submodule(name)]
        assert len(calls) == 2
        handle.remove()
        with register_module_forward_hook(lambda layer, *_: seen.append(layer)):
            module(x)
        assert seen[1:] == [module.fc1, module.act, module.fc2, module]
