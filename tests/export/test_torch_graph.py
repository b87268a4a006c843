"""A program by our layers computes what it did, whatever it has; what they cannot do stays with PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

from convneur.export.torch_graph import by_our_layers, centred_norm, joined_maps, two_norms
from convneur.export.torch_local import LocalBranch
from convneur.export.torch_memory import FoldedMemory
from convneur.layers import PatchConv2d, local_kernel
from convneur.layers.depthwise import DepthwiseConv2d
from convneur.memory import Linear, products
from convneur.memory.norm import rms_norm
from convneur.memory.packed import ONEDNN_AVAILABLE
from tests.export.builders import photos, small

DIM = 16
needs_onednn = pytest.mark.skipif(not ONEDNN_AVAILABLE, reason="oneDNN does not serve this processor")


@pytest.fixture(autouse=True)
def _onednn_whatever_the_size(monkeypatch):
    monkeypatch.setattr(products, "SMALL", 1)


class Of(nn.Module):
    """A function of images (B, 16, H, W), with layers of its own."""

    def __init__(self, function: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleDict(layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images, **self.layers)


def loaded(function: Callable[..., Tensor], **layers: nn.Module) -> GraphModule:
    axes = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    model = Of(function, **layers).eval()
    with torch.no_grad():
        program = torch.export.export(model, (torch.randn(2, DIM, 24, 40),), dynamic_shapes=(axes,))
    module = program.module()
    assert isinstance(module, GraphModule)
    return module


def answers_as_before(module: GraphModule, change: Callable[[GraphModule], None]) -> None:
    """Change a program, and see that it computes what it did; the last map is smaller than a filter."""
    sizes = (1, DIM, 20, 28), (3, DIM, 33, 21), (2, DIM, 6, 21)
    batches = [torch.randn(sizes[0]), *(torch.randn(size).to(memory_format=torch.channels_last) for size in sizes[1:])]
    with torch.inference_mode():
        wanted = [module(images) for images in batches]
        change(module)
        module.graph.lint()
        module.recompile()
        for images, answer in zip(batches, wanted, strict=True):
            torch.testing.assert_close(module(images), answer, rtol=1e-5, atol=1e-5)


def stays_the_same(module: GraphModule) -> list[str]:
    """The names of what it calls afterwards: types of modules, and operators."""
    answers_as_before(module, by_our_layers)
    return [
        type(module.get_submodule(str(node.target))).__name__ if node.op == "call_module" else str(node.target)
        for node in module.graph.nodes
        if node.op in ("call_module", "call_function")
    ]


def last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("then", "layer"),
    [
        (lambda y, x: y, "Linear"),
        (lambda y, x: F.gelu(y), "_Activated"),
        (lambda y, x: F.gelu(y) * y, "Linear"),
        (lambda y, x: F.gelu(y, approximate="tanh"), "Linear"),
        (lambda y, x: x + y, "_Added"),
        (lambda y, x: x.mean((1, 2), keepdim=True) + y, "_Added"),
        (lambda y, x: torch.add(x, y, alpha=2), "Linear"),
        (lambda y, x: y + x, "Linear"),
    ],
)
def test_linear_maps(then, layer, bias):
    found = stays_the_same(loaded(lambda x, fc: then(fc(last(x)), last(x)), fc=nn.Linear(DIM, DIM, bias=bias)))
    assert (layer if bias or layer != "_Added" else "Linear") in found
    assert "aten.linear.default" not in found


@needs_onednn
@pytest.mark.parametrize(
    ("settings", "layer"),
    [
        ({"kernel_size": 7, "padding": 3, "groups": DIM}, "DepthwiseConv2d"),
        ({"kernel_size": 2, "stride": 2}, "PatchConv2d"),
        ({"kernel_size": 1}, "PatchConv2d"),
        ({"kernel_size": 7, "padding": 3, "groups": DIM, "bias": False}, None),
        ({"kernel_size": 7, "padding": 6, "dilation": 2, "groups": DIM}, None),
        ({"kernel_size": 4, "padding": 2, "groups": DIM}, None),
        ({"kernel_size": (3, 5), "padding": 1, "groups": DIM}, None),
        ({"kernel_size": 3, "padding": 1, "groups": 4}, None),
        ({"kernel_size": 3, "padding": 1, "stride": 2, "groups": DIM}, None),
        ({"kernel_size": 2, "stride": 2, "padding": 1}, None),
        ({"kernel_size": 2, "stride": 2, "groups": 2}, None),
    ],
    ids=str,
)
def test_convolutions(settings, layer):
    found = stays_the_same(loaded(lambda x, conv: conv(x), conv=nn.Conv2d(DIM, DIM, **settings)))
    assert (layer or "aten.conv2d.default") in found


@pytest.mark.parametrize("eps", [1e-6, 1e-3])
@pytest.mark.parametrize("gain", [True, False])
def test_norms(eps, gain):
    norm = nn.RMSNorm(DIM, eps=eps, elementwise_affine=gain)
    found = stays_the_same(loaded(lambda x, norm: norm(last(x * 1e-3)), norm=norm))
    assert ("aten.rms_norm.default" in found) == (eps != 1e-6)


def tokens(x: Tensor) -> Tensor:
    return last(x).flatten(1, 2)


def rms(x: Tensor, gain: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], gain, eps)


def less_mean(x: Tensor, dim: int = 1) -> Tensor:
    return x - x.mean(dim, keepdim=True)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: rms(less_mean(tokens(x) + 3)), centred_norm),
        (lambda x: rms(less_mean(tokens(x) + 3, 2)), rms_norm),
        (lambda x: rms(less_mean(last(x))), rms_norm),
        (lambda x: rms(tokens(x) - tokens(x).sin().mean(1, keepdim=True)), rms_norm),
        (lambda x: rms(torch.sub(tokens(x), tokens(x).mean(1, keepdim=True), alpha=2)), rms_norm),
    ],
)
def test_norms_of_centred_tokens(function, name):
    found = stays_the_same(loaded(function))
    assert [each for each in found if each in map(str, (centred_norm, rms_norm))] == [str(name)]


class Gains(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = (nn.Parameter(torch.randn(DIM)) for _ in range(2))


@pytest.mark.parametrize(
    ("function", "goes"),
    [
        (lambda x, gains: (c := rms((t := tokens(x)).sin(), gains.one)) @ (c + rms(t, gains.two)).mT, True),
        (lambda x, gains: rms((t := tokens(x)[:, :1]) + tokens(x), gains.one) + rms(t, gains.two), True),
        (lambda x, gains: rms(tokens(x).sin(), gains.one) + rms(tokens(x), gains.two), False),
        (lambda x, gains: (c := rms(tokens(x), gains.one)) + c, True),
        (lambda x, gains: rms(tokens(x).sin(), gains.one, 1e-3) + rms(tokens(x), gains.two), False),
        (lambda x, gains: rms(tokens(x).sin(), gains.one) + rms(tokens(x)), False),
        (lambda x, gains: rms(tokens(x).sin(), gains.one) + rms(tokens(x).cos(), gains.two), False),
        (lambda x, gains: torch.add(rms(tokens(x), gains.one), rms(tokens(x), gains.two), alpha=2), False),
    ],
)
def test_two_norms(function, goes):
    assert (str(two_norms) in stays_the_same(loaded(function, gains=Gains()))) == goes


def up(x: Tensor, like: Tensor, mode: str = "bilinear") -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode=mode)


def joined(x: Tensor, shift: Tensor, gate: Tensor) -> Tensor:
    return shift.addcmul_(x.sin(), gate).add_(x)


@pytest.mark.parametrize(
    ("function", "goes"),
    [
        (lambda x: joined(x, up(x[..., :3, :4].cos(), x), up(x[..., 3:6, :4].sin(), x)), True),
        (lambda x: joined(x, up(x[..., :3, :4].cos(), x, "bicubic"), up(x[..., 3:6, :4].sin(), x)), False),
        (lambda x: joined(x, up(x[..., :3, :4].cos(), x), x.cos()), False),
        (lambda x: torch.addcmul(x.cos(), x.sin(), x.sigmoid()).add_(x), True),
        (lambda x: torch.addcmul(x.cos(), x.sin(), x.sigmoid()).add_(x[:, :, :1, :1]), True),
        (lambda x: torch.addcmul(x.cos(), x.sin(), x.sigmoid(), value=2).add_(x), False),
        (lambda x: torch.addcmul(x.cos(), x.sin(), x.sigmoid()).add_(x, alpha=2), False),
    ],
)
def test_gates(function, goes):
    assert (str(joined_maps) in stays_the_same(loaded(function))) == goes


def fc(bias: bool = True) -> nn.Linear:
    return nn.Linear(DIM, DIM, bias=bias)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, fc: 2 + fc(last(x)),
        lambda x, fc: (y := fc(last(x))) + y,
        lambda x, fc: last(x).double() + fc(last(x)),
        lambda x, fc: last(x).bfloat16() + fc(last(x)),
        lambda x, fc: fc.bias + fc(x.mean((0, 2, 3))),
        lambda x, fc: (y := fc(last(x))).view(y.shape[0], -1),
        lambda x, fc: (y := rms(tokens(x).sin(), fc.bias)).view(y.shape[0], -1),
        lambda x, fc: rms(tokens(x).double(), fc.bias.double()),
        lambda x, fc: torch.addcmul(x, x.sin(), x.sigmoid()).add_(x[:, :1]),
        lambda x, fc: F.linear(last(x), fc.bias),
        lambda x, fc: (y := rms(tokens(x).sin(), fc.bias), y.view(y.shape[0], -1)[:, :5].zero_())[0],
        lambda x, fc: (y := fc(last(x)), y.view(y.shape[0], -1).chunk(2, 1)[1].zero_())[0],
        lambda x, fc: torch.addcmul(tokens(x), tokens(x).sin(), tokens(x).cos()).add_(tokens(x)),
        lambda x, fc: (t := torch.addcmul(x, x.sin(), x.cos())).add_(t),
        lambda x, fc: F.gelu((h := last(x).sin(), fc(h), h.add_(1))[1]),
        lambda x, fc: (h := last(x).sin(), y := fc(h), h.add_(1), h + y)[3],
        lambda x, fc: rms((c := less_mean(tokens(x).sin()), c[:, 0].zero_())[0]),
        lambda x, fc: (
            t := tokens(x),
            u := t.sin(),
            c := rms(t, fc.bias) + rms(u, fc.bias),
            rms(c, fc.bias) + rms(t, fc.bias),
        )[3],
    ],
)
def test_what_does_not_quite_fit_stays_the_same(function):
    stays_the_same(loaded(function, fc=fc()))


def test_what_is_written_through_a_view_is_written():
    module = loaded(lambda x: (y := rms(last(x)), y.view(y.shape[0], -1)[:, :50].zero_())[0])
    images = torch.randn(2, DIM, 20, 28)
    with torch.inference_mode():
        assert not module(images).flatten(1)[:, :50].any()
    stays_the_same(module)


def test_a_layer_of_that_name_stays():
    found = stays_the_same(loaded(lambda x, our_linear, other: our_linear(other(last(x))), our_linear=fc(), other=fc()))
    assert found.count("Linear") == (2 if ONEDNN_AVAILABLE else 0)


def test_a_model_goes_by_our_layers():
    model = small()
    axes = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    with torch.no_grad():
        program = torch.export.export(model, (torch.randn(2, 3, 63, 95),), dynamic_shapes=(axes,), strict=False)
    module = program.module()
    by_our_layers(module)
    kinds = [type(each) for each in module.modules()]
    if ONEDNN_AVAILABLE:
        assert kinds.count(DepthwiseConv2d) == 2
        assert kinds.count(PatchConv2d) == 2, "the stem and the downsampling"
        assert any(issubclass(kind, Linear) for kind in kinds)
    lanes = 0 if local_kernel.LIBRARY is None else local_kernel.LANES[local_kernel.PROCESSOR]
    assert kinds.count(LocalBranch) == sum(0 < lanes <= dim for dim in (8, 16))
    targets = [node.target for node in module.graph.nodes]
    assert (targets.count(joined_maps), kinds.count(FoldedMemory), targets.count(two_norms)) == (2, 2, 2)
    images = photos(model, [(47, 63)])[0]
    with torch.inference_mode():
        torch.testing.assert_close(module(images), model(images), rtol=1e-4, atol=1e-4)
