"""Operations by name: shapes, gradients, tangents, batching, autocast and counts are those of the references."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import convneur
from convneur import ops
from convneur.ops import _library
from tests.ops.cases import arguments_of, built, close, double, every_operation, several, total


def tensors_of(args: tuple[Any, ...]) -> dict[int, Tensor]:
    return {place: each for place, each in enumerate(args) if isinstance(each, Tensor)}


def of_tensors(function: Callable[..., Any], args: tuple[Any, ...], places: list[int]) -> Callable[..., Any]:
    """The function of the arguments at some places, the others as they are."""

    def call(*given: Tensor) -> Any:
        full = list(args)
        for place, each in zip(places, given, strict=True):
            full[place] = each
        found = function(*full)
        return tuple(found) if isinstance(found, list) else found

    return call


@every_operation
@pytest.mark.parametrize("recorded", [pytest.param(True, marks=pytest.mark.slow), False])
def test_opcheck(operation, recorded):
    args = arguments_of(operation)
    for each in tensors_of(args).values():
        each.requires_grad_(recorded)
    torch.library.opcheck(operation.op, args)


@every_operation
@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_second_derivatives_and_tangents(operation, frozen):
    """Against finite differences in float64, with the weights frozen and not."""
    args = double(arguments_of(operation, size=(3, 2), batch=1))
    places = [0] if frozen else list(tensors_of(args))
    call = of_tensors(operation.op, args, places)
    given = [args[place].requires_grad_() for place in places]
    assert torch.autograd.gradcheck(call, given, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, given, fast_mode=True)


@every_operation
@pytest.mark.parametrize("frozen", [False, True])
def test_in_float32_where_a_kernel_would_serve(operation, frozen):
    """A kernel has neither gradient nor tangent, so it must not be what runs."""
    args = arguments_of(operation)
    places = [0] if frozen else list(tensors_of(args))
    ours, reference = (of_tensors(each, args, places) for each in (operation.op, operation.reference))
    given = tuple(args[place] for place in places)
    moved = tuple(torch.randn_like(each) for each in given)
    close(*(torch.func.jvp(each, given, moved)[1] for each in (ours, reference)))
    of = tuple(range(len(given)))
    slopes = [torch.func.grad(lambda *g, call=call: total(call(*g)), of)(*given) for call in (ours, reference)]
    close(*slopes)
    leaves = [each.clone().requires_grad_() for each in given]
    close(list(torch.autograd.grad(total(ours(*leaves)), leaves)), list(slopes[1]))


@every_operation
@pytest.mark.parametrize("over", ["x", "weights"])
def test_vmap(operation, over):
    args = arguments_of(operation)
    places = list(tensors_of(args))
    places = places[:1] if over == "x" else places[1:]
    call, reference = (of_tensors(each, args, places) for each in (operation.op, operation.reference))
    given = [torch.stack([args[place], 0.5 * args[place], -args[place]]) for place in places]
    found = several(torch.vmap(call)(*given))
    for row in range(3):
        close([each[row] for each in found], list(several(reference(*(each[row] for each in given)))))


@every_operation
def test_vmap_of_gradients(operation):
    args = arguments_of(operation)
    slope, expected = (
        torch.func.grad(lambda x, call=call: total(call(x)))
        for call in (of_tensors(each, args, [0]) for each in (operation.op, operation.reference))
    )
    several_x = torch.stack([args[0], 2 * args[0]])
    close(torch.vmap(slope)(several_x), torch.stack([expected(x) for x in several_x]))


@every_operation
def test_autocast(operation):
    args = arguments_of(operation)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = several(operation.op(*args)), several(operation.reference(*args))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype is other.dtype
        assert torch.equal(one, other)


def test_compiled_by_name_under_autocast():
    """A compiler sees the casts of the reference; at run time nothing would cast for the operation."""
    args = arguments_of(ops.linear)
    torch.compiler.reset()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = torch.compile(lambda *given: torch.ops.convneur.linear(*given), backend="aot_eager")(*args)
        assert found.dtype is torch.bfloat16
        close(found, ops.linear.reference(*args), 1e-2)


@every_operation
@pytest.mark.parametrize("recorded", [True, False])
def test_flops(operation, recorded):
    args = arguments_of(operation)
    args[0].requires_grad_(recorded)
    counts = []
    for call in (operation.op, operation.reference, operation):
        with FlopCounterMode(display=False) as counter:
            found = call(*args)
            if recorded:
                total(found).backward()
        counts.append(counter.get_total_flops())
    assert counts == counts[:1] * 3
    assert counts[0] > 0 or operation.name == "gated_residual"


def test_flops_of_a_model_are_the_same_with_kernels_and_without():
    model, x = timm.create_model("convneur_m1", num_classes=0).eval(), torch.randn(1, 3, 64, 64)
    counts = []
    for on in (True, False):
        with ops.use_kernels(on), torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@every_operation
def test_shapes_without_numbers(operation):
    args = arguments_of(operation)
    expected = several(operation.reference(*args))
    meta = tuple(each.to("meta") if isinstance(each, Tensor) else each for each in args)
    for found in (operation.op(*meta), operation(*meta)):
        for one, other in zip(several(found), expected, strict=True):
            assert (one.shape, one.dtype, one.device.type) == (other.shape, other.dtype, "meta")
    with FakeTensorMode() as mode:
        fake = tuple(mode.from_tensor(each) if isinstance(each, Tensor) else each for each in args)
        for one, other in zip(several(operation.op(*fake)), expected, strict=True):
            assert (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())


@built
@every_operation
def test_what_is_called_by_name_goes_by_the_kernel(operation, monkeypatch):
    args, calls, kernel = arguments_of(operation), [], operation.kernel
    monkeypatch.setattr(operation, "kernel", lambda *given: calls.append(given) or kernel(*given))
    expected = operation.reference(*args)
    with torch.inference_mode():
        close(operation.op(*args), expected)
        close(operation(*args), expected)
    assert len(calls) == 2
    close(operation.op(*double(args)), operation.reference(*double(args)), 1e-9)
    with ops.use_kernels(False):
        close(operation.op(*args), expected)
    assert len(calls) == 2


@every_operation
def test_within_keep_operations_what_is_traced_has_the_name(operation):
    args = arguments_of(operation)
    traced = torch.fx.experimental.proxy_tensor.make_fx

    def names() -> set[str]:
        graph = traced(of_tensors(operation, args, [0]))(args[0]).graph
        return {str(node.target) for node in graph.nodes if node.op == "call_function"}

    name = f"convneur.{operation.name}.default"
    assert name not in names()
    with ops.keep_operations():
        assert name in names()


@pytest.mark.parametrize("recorded", [True, False])
def test_compiled_by_name(recorded):
    """Ends in no IndexError on a CPU."""
    x, weight, _, _ = arguments_of(ops.linear)
    results = []
    torch.compiler.reset()
    for call in (torch.compile(lambda *given: torch.ops.convneur.linear(*given), backend="aot_eager"), ops.linear):
        leaves = [x.clone().requires_grad_(recorded), weight.clone().requires_grad_(recorded)]
        found = call(*leaves, None, True)
        results.append([found, *(torch.autograd.grad(total(found), leaves) if recorded else ())])
    close(*results)


@every_operation
def test_a_second_registration(operation):
    """Loaded again, and by another copy on the path."""
    again: Any = importlib.reload(importlib.import_module(f"convneur.ops.{operation.name}"))
    spec = importlib.util.spec_from_file_location("another_library", Path(_library.__file__))
    assert spec is not None
    assert spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    schema = str(operation.op._schema).removeprefix("convneur::")
    other = copy.Operation(schema, operation.reference, operation.kernel, operation.suits)
    args = arguments_of(operation)
    expected = operation.reference(*args)
    for each in (getattr(again, operation.name), other):
        assert each.op is operation.op
        for call in (each, each.op):
            close(call(*args), expected)


def test_the_package_can_be_loaded_again(monkeypatch):
    monkeypatch.setattr(convneur, "ops", ops)  # to be put back: an import sets it
    before = {name: module for name, module in sys.modules.items() if name.startswith("convneur.ops")}
    try:
        for name in before:
            del sys.modules[name]
        again = importlib.import_module("convneur.ops")
        assert again.OPERATIONS[0] is not ops.OPERATIONS[0]
        close(
            again.linear(*arguments_of(ops.linear)[:3], True), again.linear.op(*arguments_of(ops.linear)[:3], True), 9
        )
    finally:
        sys.modules.update(before)
