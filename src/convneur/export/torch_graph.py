"""Exported programs as PyTorch runs them fast on a CPU, one operation after the other; the function stays the same.

What such a program multiplies and convolves goes by our own layers again, their weights laid out once and the faster
library chosen by the size of what they are given. Where a program has none of these patterns it stays as it is.
"""

from __future__ import annotations

import operator
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from convneur.export.nodes import (
    all_float32,
    alone,
    arguments,
    calls,
    centred_from,
    constant_of,
    put,
    replace,
    written_between,
    written_through,
)
from convneur.export.torch_branch import by_our_global_branch
from convneur.export.torch_local import by_our_local_branch
from convneur.export.torch_memory import by_our_memory
from convneur.layers import PatchConv2d
from convneur.layers.depthwise import DepthwiseConv2d
from convneur.memory import FixedLinear, Linear, kernels
from convneur.memory.library import serve
from convneur.memory.norm import EPS, rms_norm, unit
from convneur.memory.packed import ONEDNN_AVAILABLE

Layer = TypeVar("Layer", bound=nn.Module)
_ATEN = torch.ops.aten


class _Activated(nn.Module):
    """A linear map and its GELU."""

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        return self.linear.then_gelu(x)


class _Added(FixedLinear):
    """A linear map and what it is added to."""

    def forward(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        if onto is not None and onto.shape != (*x.shape[:-1], len(self.weight)):
            return onto + super().forward(x)
        return super().forward(x, onto)


def by_our_layers(module: GraphModule) -> None:
    """Let our layers do what the graph of a program that was loaded does; it is changed."""
    graph = module.graph
    for asked in graph.find_nodes(op="call_function", target=_ATEN._assert_tensor_metadata.default):
        graph.erase_node(asked)  # of constants, at each call
    views = graph.find_nodes(op="call_function", target=_ATEN.view.default)
    if any(map(written_through, views)):
        return
    for node in views:
        node.target = _ATEN.reshape.default  # what our layers give may lie in memory otherwise
    for node in calls(module, _ATEN.to.dtype):
        x, dtype, *others = node.args
        constant = constant_of(module, x)
        if constant is not None and constant.dtype is dtype and not others:
            node.replace_all_uses_with(cast(Node, x))
    for change in (
        _join,
        by_our_memory,
        by_our_global_branch,
        by_our_local_branch,
        _contexts,
        _norms,
        _convolutions,
        _linear_maps,
    ):
        change(module)
    graph.eliminate_dead_code()
    module.recompile()


def _linear_maps(module: GraphModule) -> None:
    if not ONEDNN_AVAILABLE:
        return
    for node in calls(module, _ATEN.linear.default):
        x, weight_node, bias_node = arguments(node, None, None, None)
        weight, bias = constant_of(module, weight_node), constant_of(module, bias_node)
        if weight is None or (bias is None and bias_node is not None) or not all_float32(x, weight):
            continue
        if weight.ndim != 2:
            continue
        user: Any = next(iter(node.users)) if len(node.users) == 1 else node
        if written_between(node, user):
            user = node
        if user.target is _ATEN.gelu.default and not user.kwargs:
            put(module, user, _Activated(_layer(Linear, weight, bias)), x)
        elif user.target is _ATEN.add.Tensor and user.args[1] is node and bias is not None and alone(user):
            put(module, user, _Added(weight, bias).eval().fuse(), x, user.args[0])
        else:
            put(module, node, _layer(Linear, weight, bias), x)


def _convolutions(module: GraphModule) -> None:
    """Depthwise ones, and those of patches; each with weights of its own."""
    for node in calls(module, _ATEN.conv2d.default):
        x, *parts, stride, padding, dilation, groups = arguments(node, None, None, None, [1, 1], [0, 0], [1, 1], 1)
        weight, bias = (constant_of(module, part) for part in parts)
        if weight is None or bias is None or not all_float32(x, weight) or x.meta["val"].ndim != 4:
            continue
        if dilation != [1, 1]:
            continue
        filters, channels, *sides = weight.shape
        size = sides[0]
        if [channels, filters, padding] == [1, groups, [size // 2] * 2] and stride == [1, 1] and size % 2:
            if sides == [size] * 2:
                put(module, node, _layer(DepthwiseConv2d, weight, bias, filters, size), x)
        elif groups == 1 and stride == sides == [size] * 2 and padding == [0, 0]:
            put(module, node, _layer(PatchConv2d, weight, bias, channels, filters, size), x)


def _norms(module: GraphModule) -> None:
    """Root mean squares, of which PyTorch makes ten operations on a CPU; with the mean of tokens that is taken off."""
    for node in calls(module, _ATEN.rms_norm.default):
        x, shape, gain, eps = arguments(node, None, None, None, None)
        if len(shape) != 1 or eps != EPS or not all_float32(x) or (gain is not None and not all_float32(gain)):
            continue
        tokens = centred_from(x, node)
        with module.graph.inserting_before(node):
            made = (
                module.graph.call_function(rms_norm, (x,))
                if tokens is None
                else module.graph.call_function(centred_norm, (tokens,))
            )
            if gain is not None:
                made = module.graph.call_function(_ATEN.mul.Tensor, (made, gain))
        replace(module, node, made)


def centred_norm(tokens: Tensor) -> Tensor:
    """Tokens (B, N, D) without their mean, over the root of their mean square."""
    if serve(tokens):
        return unit(tokens, center=True)
    return rms_norm(tokens - tokens.mean(1, keepdim=True))


def _contexts(module: GraphModule) -> None:
    """What both answers of a global branch follow from: two norms, each with a gain, in one step."""
    for node in calls(module, _ATEN.add.Tensor):
        norm, carry = arguments(node, None, None)
        if any(getattr(each, "target", None) is not _ATEN.rms_norm.default or each.kwargs for each in (norm, carry)):
            continue
        read, shape, gain, eps = arguments(norm, *[None] * 4)
        tokens, *how, carry_eps = arguments(carry, *[None] * 4)
        given = (read, tokens, gain, how[1])
        if len(shape) != 1 or how[0] != shape or (eps, carry_eps) != (EPS, EPS) or not all_float32(*given):
            continue
        order = {each: number for number, each in enumerate(module.graph.nodes)}
        if any(order[each] > order[norm] for each in given):
            continue
        if written_between(min(norm, carry, key=order.__getitem__), node):
            continue
        with module.graph.inserting_before(norm):
            both = module.graph.call_function(two_norms, given)
            context, carried = (module.graph.call_function(operator.getitem, (both, index)) for index in (0, 1))
        replace(module, node, carried)
        if norm is not carry:
            replace(module, norm, context)


def two_norms(read: Tensor, tokens: Tensor, gain: Tensor, carry_gain: Tensor) -> tuple[Tensor, Tensor]:
    """``rms(read) gain``, and that with ``rms(tokens) carry_gain`` added; each (B, N, D)."""
    if read.shape == tokens.shape and serve(read, tokens, gain, carry_gain):
        return kernels.contexts(read, tokens, gain, carry_gain)
    context = rms_norm(read) * gain
    return context, context + rms_norm(tokens) * carry_gain


def _join(module: GraphModule) -> None:
    """Gate, shift and residual of a block in one pass, as the block does it."""
    up = _ATEN.upsample_bilinear2d.vec
    for node in calls(module, _ATEN.add_.Tensor):
        added, x = arguments(node, None, None)
        if not isinstance(added, Node) or added.kwargs or len(added.users) > 1:
            continue
        shift, local, gate, size = *arguments(added, *[None] * 3)[:3], None
        brought: tuple[Any, ...] = ()
        if added.target is _ATEN.addcmul_.default:
            brought = shift, gate
            if any(part.target is not up or len(part.users) > 1 for part in brought):
                continue
            shift, *how = arguments(shift, *[None] * 4)
            gate, *gate_how = arguments(gate, *[None] * 4)
            if how != gate_how or how[1:] != [False, None]:
                continue
            size = how[0]
        elif added.target is not _ATEN.addcmul.default:
            continue
        if not all_float32(x, local, gate, shift) or x.meta["val"].ndim != 4 or added in (x, local, gate, shift):
            continue
        order = {each: number for number, each in enumerate(module.graph.nodes)}
        first = min((added, *brought), key=order.__getitem__)
        if written_between(first, node, added):
            continue
        with module.graph.inserting_before(node):
            joined = module.graph.call_function(joined_maps, (x, local, gate, shift, size))
        replace(module, node, joined)
        module.graph.erase_node(added)  # as it writes in place it would be kept


def joined_maps(x: Tensor, local: Tensor, gate: Tensor, shift: Tensor, size: list[int] | None) -> Tensor:
    """``x + shift + local gate``; gate and shift are brought up to a height and width first, if there are any."""
    same = gate.shape if size is None else (*gate.shape[:2], *size)
    if x.shape == same and kernels.join_serves(x, local, gate, shift):
        return kernels.join(x, local, gate, shift)
    if size is not None:
        gate, shift = (F.interpolate(grid, size=size, mode="bilinear") for grid in (gate, shift))
    return torch.addcmul(shift, local, gate).add_(x)


def _layer(kind: type[Layer], weight: Tensor, bias: Tensor | None, *sizes: int) -> Layer:
    with torch.device("meta"):  # weights of its own would be thrown away
        layer: Any = kind(*(sizes or reversed(weight.shape)))
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return cast(Layer, layer.eval().fuse())
