"""Products by oneDNN are torch's linear maps: numbers, gradients, and what others may do with them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from convneur.memory import products
from convneur.memory.products import Linear, linear

served = pytest.mark.skipif(not products.ONEDNN_AVAILABLE, reason="oneDNN does not serve this processor")


@pytest.fixture(autouse=True)
def _none_too_small(monkeypatch) -> None:
    monkeypatch.setattr(products, "SMALL", 1)


SHAPES = [(1, 3, 5), (63, 16, 8), (100, 7, 33), (1000, 40, 160), (2, 1, 1)]


def parts(rows: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)


def exact(function: Callable[..., Tensor], tensors: tuple[Tensor, ...], double: bool = False) -> list[Tensor]:
    """Output and gradients, in float64 on request."""
    leaves = [t.detach().to(torch.float64 if double else t.dtype).requires_grad_() for t in tensors]
    out = function(*leaves)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves)]


@served
@pytest.mark.parametrize("narrow", [0, 8, products.NARROW])
@pytest.mark.parametrize("at_home", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_gradients_are_those_of_float64(shape, at_home, narrow, monkeypatch):
    monkeypatch.setattr(products, "MKL_AT_HOME", at_home)
    monkeypatch.setattr(products, "NARROW", narrow)
    tensors = parts(*shape)
    for got, expected in zip(exact(linear, tensors), exact(F.linear, tensors, double=True), strict=True):
        assert (got - expected).norm() <= 1e-6 * expected.norm()


@served
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.T.contiguous().T,
        lambda x: x[::2],
        lambda x: x.view(2, 5, -1, x.shape[-1]).permute(0, 2, 1, 3),
        lambda x: x[:1].expand(7, -1),
    ],
    ids=["transposed", "strided", "permuted", "expanded"],
)
def test_any_layout_will_do(change):
    x, weight, bias = parts(100, 16, 24)
    for given in (weight, weight.T.contiguous().T):
        torch.testing.assert_close(linear(change(x), given, bias), F.linear(change(x), given, bias))
        torch.testing.assert_close(linear(change(x), given), F.linear(change(x), given))


@served
@pytest.mark.parametrize("at_home", [False, True])
@pytest.mark.parametrize("narrow", [3, 4])
def test_onednn_is_used_where_it_is_said_to_be(at_home, narrow, monkeypatch):
    monkeypatch.setattr(products, "MKL_AT_HOME", at_home)
    monkeypatch.setattr(products, "NARROW", narrow)
    calls = []
    product = products._product
    monkeypatch.setattr(products, "_product", lambda *given: calls.append(given) or product(*given))
    x, weight, bias = parts(8, 4, 16)
    linear(x, weight, bias)
    assert len(calls) == 1
    linear(x.requires_grad_(), weight.requires_grad_(), bias).sum().backward()
    used = 3 if at_home or narrow == 4 else 4
    assert len(calls) == used, "forward, and a product for each gradient, of which MKL may have one"
    monkeypatch.setattr(products, "SMALL", 8 * 4 * 16 + 1)
    linear(x, weight, bias)
    with torch.backends.mkldnn.flags(enabled=False):
        monkeypatch.setattr(products, "SMALL", 1)
        linear(x, weight, bias)
    linear(x.double(), weight.double(), bias.double())
    assert len(calls) == used


@served
@pytest.mark.parametrize("frozen", [(), ("x",), ("weight", "bias")])
def test_compiled_output_and_gradients_are_those_of_float64(frozen):
    tensors = dict(zip(("x", "weight", "bias"), parts(63, 16, 24), strict=True))

    def run(function: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor | None]:
        leaves = {name: t.to(dtype, copy=True).requires_grad_(name not in frozen) for name, t in tensors.items()}
        out = function(*leaves.values())
        out.square().sum().backward()
        return [out.detach(), *(leaf.grad for leaf in leaves.values())]

    torch.compiler.reset()
    compiled = torch.compile(linear, fullgraph=True, backend="aot_eager")
    for got, expected in zip(run(compiled, torch.float32), run(F.linear, torch.float64), strict=True):
        assert (got is None) == (expected is None)
        if got is not None:
            assert (got - expected).norm() <= 1e-6 * expected.norm()


@served
def test_compilers_get_onednn_and_exporters_torch():
    layer, x = Linear(16, 24).eval(), torch.randn(10, 16)
    targets = []

    def note(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., object]:
        targets.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    torch.compiler.reset()
    with torch.inference_mode():
        torch.compile(layer, backend=note)(x)
    assert any("convneur" in target for target in targets)
    exported = torch.export.export(layer, (x,), strict=False)
    assert [str(node.target) for node in exported.graph.nodes if node.op == "call_function"] == ["aten.linear.default"]


def test_second_derivatives():
    tensors = [t.double().requires_grad_() for t in parts(4, 3, 2)]
    assert torch.autograd.gradgradcheck(linear, tensors)


@served
def test_second_derivatives_through_onednn():
    def penalty(function: Callable[..., Tensor], tensors: list[Tensor]) -> list[Tensor]:
        leaves = [t.detach().clone().requires_grad_() for t in tensors]
        (slope,) = torch.autograd.grad(function(*leaves).square().sum(), leaves[0], create_graph=True)
        return list(torch.autograd.grad(slope.square().sum(), leaves))

    tensors = list(parts(9, 5, 7))
    for got, expected in zip(penalty(linear, tensors), penalty(F.linear, tensors), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_only_what_is_asked_for_gets_a_gradient(frozen):
    layer = Linear(3, 4)
    getattr(layer, frozen).requires_grad_(False)
    layer(torch.randn(2, 3)).sum().backward()
    assert {name for name, value in layer.named_parameters() if value.grad is None} == {frozen}


@pytest.mark.parametrize("shape", [(0, 3), (3,), (2, 0, 3)])
def test_shapes_that_onednn_does_not_take(shape):
    layer, x = Linear(3, 4), torch.randn(shape)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


def test_a_width_that_does_not_fit_is_refused():
    with pytest.raises(RuntimeError):
        Linear(3, 4)(torch.randn(2, 5))


def test_counters_see_the_operations():
    layer, x = Linear(16, 24), torch.randn(10, 16)
    for context in (torch.enable_grad(), torch.inference_mode()):
        with context, FlopCounterMode(display=False) as counter:
            layer(x)
        assert counter.get_total_flops() == 2 * 10 * 16 * 24


def test_transforms_and_autocast_give_what_torch_gives():
    layer, x = Linear(5, 6), torch.randn(4, 3, 5)
    plain = nn.Linear(5, 6)
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(torch.vmap(layer)(x), plain(x))
    jacobians = [torch.func.jacrev(each)(x[0, 0]) for each in (layer, plain)]
    torch.testing.assert_close(*jacobians)
    pushed = [torch.func.jvp(each, (x,), (torch.ones_like(x),)) for each in (layer, plain)]
    torch.testing.assert_close(*pushed)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer(x), plain(x), rtol=0, atol=0)


def test_a_fused_layer_follows_its_weight_to_another_precision_and_a_copy():
    layer, x = Linear(5, 6).eval().fuse(), torch.randn(4, 5)
    with torch.no_grad():
        for each in (layer, copy.deepcopy(layer)):
            torch.testing.assert_close(each(x), F.linear(x, each.weight, each.bias))
        layer.double()
        assert layer.packed is None
        torch.testing.assert_close(layer(x.double()), F.linear(x.double(), layer.weight, layer.bias))
    layer(x.double()).sum().backward()  # it is still part of a graph
    assert layer.weight.grad is not None


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_gelu_in_the_same_operation(fused, approximate):
    x, weight, bias = parts(100, 16, 24)
    layer = Linear(16, 24).eval()
    layer.load_state_dict({"weight": weight, "bias": bias})
    expected = F.gelu(F.linear(x, weight, bias), approximate=approximate)
    compiled = torch.compile(lambda x: layer.then_gelu(x, approximate), fullgraph=True)
    if fused:
        layer.fuse()
    with torch.no_grad():
        torch.testing.assert_close(layer.then_gelu(x, approximate), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(compiled(x), expected, rtol=1e-5, atol=1e-5)
