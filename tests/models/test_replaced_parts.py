"""What people replace, quantise, copy or set on a model counts: nothing is computed past it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convneur import SlotMemory, ops
from convneur.layers import GlobalBranch
from convneur.layers.depthwise import DepthwiseConv2d
from convneur.models import ConvNeur
from tests.models.builders import stirred

KERNELS = pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "references"])
MODES = pytest.mark.parametrize("mode", ["inference", "training"])


def images() -> Tensor:
    return torch.randn(2, 3, 64, 48)


def feature_map(height: int = 16, width: int = 12) -> Tensor:
    """As the first stage of a small model has it."""
    return torch.randn(2, 8, height, width).to(memory_format=torch.channels_last)


def first_branch(model: ConvNeur) -> GlobalBranch:
    return next(module for module in model.modules() if isinstance(module, GlobalBranch))


def run(module: nn.Module, x: Tensor, mode: str) -> Any:
    """Outputs in inference, or as a training step computes them."""
    if mode == "inference":
        with torch.inference_mode():
            return module.eval()(x)
    return module.train()(x)


@KERNELS
@MODES
@pytest.mark.parametrize("name", ["memory", "memory.to_values", "memory.norm", "down", "proj", "up_shift"])
def test_a_forward_replaced_on_an_instance_is_what_runs(name, mode, kernels):
    """As adapters do it; here the replacement adds something to what the layer gives."""
    model, other, x = stirred(), stirred(), images()
    layer, hooked = (first_branch(each).get_submodule(name) for each in (model, other))
    with ops.use_kernels(kernels):
        before = run(model, x, mode)
        forward, calls = layer.forward, []
        layer.forward = lambda given: calls.append(name) or forward(given) + 1.0
        replaced = run(model, x, mode)
    assert calls == [name]
    hooked.register_forward_hook(lambda _layer, _given, out: out + 1.0)
    with ops.use_kernels(False):
        torch.testing.assert_close(replaced, run(other, x, mode), rtol=1e-4, atol=1e-4)
    assert not torch.equal(replaced, before)


@KERNELS
def test_a_layer_replaced_by_another_class_is_what_runs(kernels):
    """LoRA as peft does it: a layer that holds the one it stands for."""

    class Adapted(nn.Module):
        def __init__(self, base: nn.Linear) -> None:
            super().__init__()
            self.base, self.added = base, nn.Linear(base.in_features, base.out_features, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + self.added(x)

    model, merged, x = stirred(), stirred(), images()
    for module in (first_branch(model).memory, model.stages[0].blocks[0].mlp):
        name = "to_values" if isinstance(module, SlotMemory) else "fc1"
        setattr(module, name, Adapted(getattr(module, name)))
    with torch.no_grad():
        for path in ("stages.0.blocks.0.global_branch.memory.to_values", "stages.0.blocks.0.mlp.fc1"):
            merged.get_submodule(path).weight += model.get_submodule(path).added.weight
    with ops.use_kernels(kernels), torch.inference_mode():
        torch.testing.assert_close(model(x), merged(x), rtol=1e-4, atol=1e-4)


SETTINGS: dict[str, Callable[[nn.Conv2d], None]] = {
    "reflected": lambda conv: _pad_by(conv, "reflect"),
    "circular": lambda conv: _pad_by(conv, "circular"),
    "dilated": lambda conv: _set(conv, dilation=(2, 2), padding=(6, 6)),
    "padded by name": lambda conv: _set(conv, padding="same"),
}


def _set(conv: nn.Conv2d, **settings: Any) -> None:
    for name, value in settings.items():
        setattr(conv, name, value)


def _pad_by(conv: nn.Conv2d, mode: str) -> None:
    _set(conv, padding_mode=mode)


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("size", [(4, 5), (12, 9)])
def test_settings_of_the_depthwise_convolution_count(setting, size):
    torch.manual_seed(0)
    ours, plain = DepthwiseConv2d(8), nn.Conv2d(8, 8, 7, padding=3, groups=8)
    plain.load_state_dict(ours.state_dict())
    for conv in (ours, plain):
        setting(conv)
    x = torch.randn(2, 8, *size)
    for given in (x, x.requires_grad_()):
        found, expected = ours(given), plain(given)
        torch.testing.assert_close(found, expected)
    grad = torch.randn_like(found)
    for conv, out in ((ours, found), (plain, expected)):
        out.backward(grad)
        assert conv.weight.grad is not None
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())
def test_they_count_in_a_fused_model(setting):
    model, x = stirred(), torch.randn(1, 3, 96, 96)
    for block in [block for stage in model.stages for block in stage.blocks][:2]:
        setting(block.conv_dw)
    with torch.inference_mode():
        expected = model(x)
        torch.testing.assert_close(copy.deepcopy(model).fuse()(x), expected, rtol=1e-4, atol=1e-4)


class Int8Weight(Tensor):
    """A weight of 8 bits per number that knows a linear layer and nothing else, as torchao's weight-only classes."""

    @staticmethod
    def __new__(cls, weight: Tensor) -> Int8Weight:
        return Tensor._make_wrapper_subclass(cls, weight.shape, dtype=weight.dtype, requires_grad=False)

    def __init__(self, weight: Tensor) -> None:
        self.scale = weight.detach().abs().amax(1, keepdim=True) / 127
        self.numbers = (weight.detach() / self.scale).round().to(torch.int8)

    def dequantised(self) -> Tensor:
        return self.numbers.float() * self.scale

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            x, weight, *bias = args
            return F.linear(x, weight.dequantised(), *bias, **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError(f"{func} of a weight of 8 bits")


class Int8WeightBelow(Int8Weight):
    """The same by the dispatcher alone."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.t.default:
            return args[0].dequantised().t()
        if func is torch.ops.aten.linear.default:
            return func(args[0], args[1].dequantised(), *args[2:])
        return super().__torch_dispatch__(func, types, args, kwargs)


@KERNELS
@pytest.mark.parametrize("kind", [Int8Weight, Int8WeightBelow])
@pytest.mark.parametrize("where", ["", ".memory.", ".mlp."])
def test_quantised_weights_are_used_as_they_are(where, kind, kernels):
    model, x = stirred(), images()
    rounded = copy.deepcopy(model)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and where in name:
            weight = kind(layer.weight)
            layer.weight = nn.Parameter(weight, requires_grad=False)
            rounded.get_submodule(name).weight.data = weight.dequantised()
    with ops.use_kernels(kernels), torch.inference_mode():
        expected = rounded(x)
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model.fuse()(x), expected, rtol=1e-4, atol=1e-4)


def replica(module: nn.Module) -> nn.Module:
    """As torch.nn.parallel.replicate makes one: what were parameters are plain attributes, and not leaves."""
    made = module._replicate_for_data_parallel()
    for name, child in module.named_children():
        made._modules[name] = replica(child)
    for name, parameter in module._parameters.items():
        setattr(made, name, parameter if parameter is None else parameter.clone())
    for name, buffer in module._buffers.items():
        made._buffers[name] = buffer if buffer is None else buffer.clone()
    return made


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@KERNELS
@MODES
@pytest.mark.parametrize("arguments", [{}, {"preset": "published"}, {"fusion": "concat"}], ids=str)
def test_replicas_of_data_parallel_are_the_model(arguments, mode, kernels):
    model, x = stirred(**arguments), images()
    with ops.use_kernels(kernels):
        torch.testing.assert_close(run(replica(model), x, mode), run(model, x, mode), rtol=1e-5, atol=1e-5)
    model.eval()
    replica(model)(x).sum().backward()
    found = gradients(model)
    model.zero_grad()
    model(x).sum().backward()
    torch.testing.assert_close(found, gradients(model), rtol=1e-3, atol=1e-4)


def test_replicas_of_a_fused_model_are_the_model():
    model, x = stirred().fuse(), images()
    with torch.inference_mode():
        torch.testing.assert_close(replica(model)(x), model(x), rtol=1e-5, atol=1e-5)


NORMS = ["memory.norm", "norm", "carry_norm"]


def normalized(norm: nn.LayerNorm | nn.RMSNorm, eps: float, z: Tensor) -> Tensor:
    if isinstance(norm, nn.RMSNorm):
        return z / (z.square().mean(-1, keepdim=True) + eps).sqrt() * norm.weight
    z = z - z.mean(-1, keepdim=True)
    return z / (z.square().mean(-1, keepdim=True) + eps).sqrt() * norm.weight + norm.bias


@KERNELS
@MODES
@pytest.mark.parametrize("names", [NORMS, *([name] for name in NORMS)], ids=str)
def test_the_eps_of_a_norm_counts(names, mode, kernels):
    branch, x, eps = first_branch(stirred()), feature_map(), 3.0
    before, by_hand = run(branch, x, mode), copy.deepcopy(branch)
    for name in names:
        branch.get_submodule(name).eps = eps
        norm = by_hand.get_submodule(name)
        norm.forward = partial(normalized, norm, eps)
    with ops.use_kernels(kernels):
        found = run(branch, x, mode)
    torch.testing.assert_close(found, run(by_hand, x, mode), rtol=1e-4, atol=1e-5)
    assert (found[0] - before[0]).norm() > 0.01 * before[0].norm()


@KERNELS
def test_no_eps_is_the_least_number_as_in_torch(kernels):
    model, x = stirred(), images()
    given = copy.deepcopy(model)
    for norm in (m for m in model.modules() if isinstance(m, nn.RMSNorm)):
        norm.eps = None
    for norm in (m for m in given.modules() if isinstance(m, nn.RMSNorm)):
        norm.eps = torch.finfo(torch.float32).eps
    with ops.use_kernels(kernels), torch.inference_mode():
        torch.testing.assert_close(model(x), given(x), rtol=1e-4, atol=1e-4)


def negated(x: Tensor) -> Tensor:
    """The same numbers as a view that says they are negated."""
    view = torch._neg_view(-x)
    assert view.is_neg()
    return view


@KERNELS
@pytest.mark.parametrize("fused", [False, True])
def test_negated_views_are_read_as_what_they_are(fused, kernels):
    model, x = stirred(), feature_map()
    if fused:
        model.fuse()
    block = model.stages[0].blocks[0]
    with ops.use_kernels(kernels), torch.inference_mode():
        torch.testing.assert_close(block(negated(x)), block(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(block.global_branch(negated(x)), block.global_branch(x), rtol=1e-5, atol=1e-5)
        rows = x.permute(0, 2, 3, 1)
        torch.testing.assert_close(block.mlp(negated(rows)), block.mlp(rows), rtol=1e-5, atol=1e-5)


def test_negated_weights_are_packed_as_what_they_are():
    model, x = stirred(), images()
    with torch.inference_mode():
        expected = model(x)
        for layer in (m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))):
            layer.weight = nn.Parameter(negated(layer.weight.detach()), requires_grad=False)
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model.fuse()(x), expected, rtol=1e-5, atol=1e-5)
