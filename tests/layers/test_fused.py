"""Layers whose weights were laid out or merged beforehand answer as they did, and follow their weights."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from convneur.layers import ConvNeurBlock, FusionKind, GlobalBranch, PatchConv2d, depthwise, local_kernel
from convneur.layers.depthwise import DepthwiseConv2d
from convneur.memory import FixedLinear, Linear, MemoryConfig, products
from convneur.memory.packed import ONEDNN_AVAILABLE


@pytest.fixture(autouse=True)
def _onednn_whatever_the_size(monkeypatch):
    monkeypatch.setattr(products, "SMALL", 1)


def stirred(layer: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return layer.eval()


def gated(fusion: FusionKind) -> ConvNeurBlock:
    shift = fusion == "gate_add"
    return ConvNeurBlock(16, GlobalBranch(16, 16, 2, MemoryConfig(heads=2), shift=shift), fusion)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "depthwise": lambda: DepthwiseConv2d(16),
    "patches": lambda: PatchConv2d(16, 24, 2),
    "patches of three": lambda: PatchConv2d(16, 8, 3),
    "block": lambda: ConvNeurBlock(16),
    **{f"block, {fusion}": partial(gated, fusion) for fusion in ("gate", "gate_add", "add", "concat")},
}
each = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())


def maps(height: int = 10, width: int = 7) -> Tensor:
    return torch.randn(2, 16, height, width).to(memory_format=torch.channels_last)


def assert_same(fused: nn.Module, plain: nn.Module, x: Tensor, **tolerance: float) -> None:
    with torch.inference_mode():
        expected, found = plain(x), fused(x)
        torch.testing.assert_close(found, expected, **(tolerance or {"rtol": 1e-5, "atol": 1e-5}))
        assert found.stride() == expected.stride()


@pytest.mark.skipif(not ONEDNN_AVAILABLE, reason="oneDNN does not serve this processor")
def test_what_was_worked_out_beforehand_is_what_runs(monkeypatch):
    monkeypatch.setattr(local_kernel, "LIBRARY", None)
    ran = []

    def noting(name: str, function: Callable) -> Callable:
        return lambda *given: ran.append(name) or function(*given)

    monkeypatch.setattr(depthwise, "_CONVOLUTION", noting("convolution", depthwise._CONVOLUTION))
    monkeypatch.setattr(products, "_LINEAR", noting("product", products._LINEAR))
    monkeypatch.setattr(products, "_LINEAR_ADDED", noting("product added", products._LINEAR_ADDED))
    expected = {
        "depthwise": ["convolution"],
        "patches": ["product"],
        "patches of three": ["product"],
        "block": ["product", "product added"],  # its convolution is fused apart
    }
    for name, found in expected.items():
        ran.clear()
        with torch.inference_mode():
            stirred(LAYERS[name]()).fuse()(maps())
        assert ran == found


@each
@pytest.mark.parametrize("size", [(10, 7), (3, 3), (4, 64), (33, 18)])
def test_it_answers_as_before_at_any_size_and_layout(make, size):
    layer = stirred(make())
    fused = copy.deepcopy(layer).fuse()
    assert_same(fused, layer, maps(*size))
    assert_same(fused, layer, maps(*size).contiguous())
    assert_same(fused, layer, maps(*size)[:1])


@each
def test_the_state_dict_stays_and_may_be_loaded_into(make):
    layer, other = stirred(make()), stirred(make())
    fused = copy.deepcopy(layer).fuse()
    assert list(fused.state_dict()) == list(layer.state_dict())
    fused.load_state_dict(other.state_dict())
    assert_same(fused, other, maps())


@each
def test_it_follows_to_another_precision_and_a_copy(make):
    layer = stirred(make())
    for copied in (copy.deepcopy, lambda fused: pickle.loads(pickle.dumps(fused))):
        assert_same(copied(copy.deepcopy(layer).fuse()), layer, maps())
    assert_same(copy.deepcopy(layer).fuse().double(), copy.deepcopy(layer).double(), maps().double())
    assert_same(copy.deepcopy(layer).fuse().double().float(), layer, maps())
    half = copy.deepcopy(layer).bfloat16()
    assert_same(copy.deepcopy(layer).fuse().bfloat16(), half, maps().bfloat16(), rtol=0.05, atol=0.05)


@each
def test_it_refuses_to_learn_and_gradients_pass_all_the_same(make):
    with pytest.raises(ValueError, match="call eval"):
        make().train().fuse()
    layer = stirred(make())
    fused = copy.deepcopy(layer)
    with torch.inference_mode():
        fused.fuse()
    with pytest.raises(ValueError, match="cannot be trained"):
        fused.train()
    x = maps()
    slopes = []
    for module in (layer, fused):
        module.zero_grad()
        given = x.clone().requires_grad_()
        module(given).square().sum().backward()
        slopes.append([given.grad, *(parameter.grad for parameter in module.parameters())])
    for own, before in zip(*slopes, strict=True):
        torch.testing.assert_close(own, before)


@each
def test_it_is_compiled_and_exported(make):
    layer = stirred(make())
    fused, x = copy.deepcopy(layer).fuse(), maps()
    torch.compiler.reset()
    with torch.inference_mode():
        compiled = torch.compile(fused, fullgraph=True, dynamic=False, backend="aot_eager")
        torch.testing.assert_close(compiled(x), layer(x), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        program = torch.export.export(fused, (x,), strict=False)
    torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-5, atol=1e-5)


def test_a_merged_block_follows_all_that_happens_to_its_weights():
    block, other, x = stirred(ConvNeurBlock(16)), stirred(ConvNeurBlock(16)), maps()
    fused = copy.deepcopy(block).fuse()

    def check() -> None:
        plain = stirred(ConvNeurBlock(16))
        plain.load_state_dict(fused.state_dict())
        assert_same(fused, plain, x)

    fused.mlp.load_state_dict(other.mlp.state_dict())
    check()
    fused.mlp.fc2.load_state_dict(block.mlp.fc2.state_dict(), assign=True)
    check()
    with torch.no_grad():
        fused.gamma.mul_(-2)
    check()
    fused.mlp.fc2.weight.data = torch.randn(16, 64)
    check()
    with torch.no_grad():
        for layer in (fused.conv_dw, fused.norm, fused.mlp.fc1):
            layer.bias.add_(1)
            check()
            layer.weight = nn.Parameter(torch.randn_like(layer.weight))
            check()


@pytest.mark.parametrize("fusion", ["gate", "gate_add", "add", "concat"])
def test_gated_blocks_go_by_the_merged_map(fusion, monkeypatch):
    monkeypatch.setattr(local_kernel, "LIBRARY", None)
    block, calls = stirred(gated(fusion)).fuse(), []
    block.mlp.fc2.fuse()  # as timm does after the block
    assert block.mlp.fc2.packed is None, "nothing would read it"
    forward = FixedLinear.forward
    monkeypatch.setattr(FixedLinear, "forward", lambda *given: calls.append(given[0]) or forward(*given))
    with torch.inference_mode():
        block(maps())
    assert [each is block.last for each in calls] == [True]


@pytest.mark.parametrize("make", [lambda: ConvNeurBlock(16), partial(gated, "gate"), partial(gated, "gate_add")])
def test_under_autocast_a_fused_block_answers_in_the_precision_of_a_plain_one(make):
    block, x = stirred(make()), torch.randn(2, 16, 9, 13)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        plain, fused = block(x), block.fuse()(x)
    assert fused.dtype is plain.dtype is torch.float32
    torch.testing.assert_close(fused, plain, rtol=0.02, atol=0.02)


def test_a_block_with_other_parts_is_fused_as_far_as_it_goes():
    x = maps()
    for change in (
        lambda block: setattr(block, "mlp", nn.Identity()),
        lambda block: setattr(block.mlp, "fc2", nn.Sequential(nn.Linear(64, 16), nn.Tanh())),
        lambda block: setattr(block.mlp, "fc2", Linear(64, 16, bias=False)),
        lambda block: setattr(block.mlp, "fc1", Linear(16, 64, bias=False)),
        lambda block: setattr(block.mlp, "act", nn.GELU("tanh")),
        lambda block: setattr(block.mlp, "act", nn.Tanh()),
        lambda block: setattr(block, "norm", nn.LayerNorm(16, elementwise_affine=False)),
        lambda block: setattr(block, "norm", nn.Identity()),
        lambda block: setattr(block, "conv_dw", DepthwiseConv2d(16, 5)),
        lambda block: setattr(block, "conv_dw", nn.Conv2d(16, 16, 7, padding=3)),
    ):
        block = stirred(ConvNeurBlock(16))
        change(block)
        fused = copy.deepcopy(block).eval().fuse()
        assert_same(fused, block.eval(), x)
        fused.load_state_dict(block.state_dict())


def test_weights_that_are_elsewhere_are_not_merged():
    with torch.device("meta"):
        for make in LAYERS.values():
            make().eval().fuse()


@pytest.mark.parametrize("name", ["conv_dw", "norm", "mlp", "mlp.fc1", "mlp.act", "mlp.fc2"])
def test_who_looks_into_a_merged_block_sees_what_was_there(name):
    block = stirred(ConvNeurBlock(16))
    fused, seen = copy.deepcopy(block).fuse(), []
    for module in (block, fused):
        module.get_submodule(name).register_forward_hook(lambda *call: seen.append(call[2]))
        with torch.inference_mode():
            torch.manual_seed(5)
            module(maps())
    torch.testing.assert_close(*seen)


@pytest.mark.parametrize("shape", [(3,), (2, 5), (1, 2, 3)])
def test_a_fixed_map_is_the_product_and_no_part_of_the_state(shape):
    weight, bias, x, onto = torch.randn(6, 8), torch.randn(6), torch.randn(*shape, 8), torch.randn(*shape, 6)
    layer = FixedLinear(weight, bias).eval().fuse()
    assert not list(layer.parameters())
    assert not layer.state_dict()
    for context in (torch.enable_grad, torch.inference_mode):
        with context():
            torch.testing.assert_close(layer(x), x @ weight.T + bias)
            torch.testing.assert_close(layer(x, onto), onto + x @ weight.T + bias)
            apart = torch.randn(*shape, 12)[..., ::2]
            torch.testing.assert_close(layer(x, apart), apart + x @ weight.T + bias)
