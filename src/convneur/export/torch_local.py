"""The local branches of an exported program, by the one call that a fused block makes of its own.

A branch is looked for as it was exported: depthwise convolution, norm, linear map, GELU and linear map, none of which
gives anything to anybody else.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from convneur.export.nodes import all_float32, alone, arguments, calls, constant_of, giver, put, written_between
from convneur.layers import ConvNeurBlock

_ATEN = torch.ops.aten
_LAST = [0, 2, 3, 1]  # channels


class LocalBranch(nn.Module):
    """A local branch by a fused block.

    Args:
        block: Whose branch it is.
        residual: Whether the map itself is added.
    """

    def __init__(self, block: ConvNeurBlock, residual: bool) -> None:
        super().__init__()
        self.block, self.residual = block, residual

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, H, W, C)."""
        return (self.block(x) if self.residual else self.block.scaled(x)).permute(_LAST)


class _Found(NamedTuple):
    """Nodes of a branch: what it is given, where it begins and ends, and its weights by their names in a block."""

    x: Node
    first: Node
    last: Node
    weights: dict[str, Tensor]
    eps: float


def by_our_local_branch(module: GraphModule) -> None:
    """Let fused blocks do what local branches of a graph do; it is changed."""
    for gelu in calls(module, _ATEN.gelu.default):
        found = _branch(module, gelu)
        if found is None:
            continue
        block = _block(found)
        if block.by_hand is None:
            continue
        added: Any = next(iter(found.last.users)) if len(found.last.users) == 1 else found.last
        residual = added.target is _ATEN.add.Tensor and alone(added) and added.args[1] is found.last
        if residual and _is_turned(added.args[0], found.x) and not written_between(found.first, added):
            put(module, added, LocalBranch(block, residual=True), found.x)
        else:
            put(module, found.last, LocalBranch(block, residual=False), found.x)
    module.graph.eliminate_dead_code()  # or others would lay out what is no longer read


def _branch(module: GraphModule, gelu: Node) -> _Found | None:
    """The branch that a GELU is part of."""
    fc2: Any = next(iter(gelu.users), gelu)
    fc1: Any = gelu.args[0]
    norm: Any = giver(fc1, _ATEN.linear.default)
    turned: Any = giver(norm, _ATEN.layer_norm.default)
    conv: Any = giver(turned, _ATEN.permute.default)
    if giver(conv, _ATEN.conv2d.default) is None or fc2.target is not _ATEN.linear.default or fc2.kwargs:
        return None
    if (
        any(len(node.users) > 1 for node in (gelu, fc1, norm, turned, conv))
        or len(gelu.args) > 1
        or fc2.args[0] is not gelu
    ):
        return None
    x, *filters, stride, padding, dilation, groups = arguments(conv, None, None, None, [1, 1], [0, 0], [1, 1], 1)
    _, shape, *gains, eps, _ = arguments(norm, None, None, None, None, 1e-5, True)
    parts = {"conv_dw": filters, "norm": gains, "mlp.fc1": arguments(fc1, *[None] * 3)[1:]}
    parts["mlp.fc2"] = arguments(fc2, *[None] * 3)[1:]
    weights = {
        f"{layer}.{name}": constant_of(module, node)
        for layer, nodes in parts.items()
        for name, node in zip(("weight", "bias"), nodes, strict=True)
    }
    known = {name: weight for name, weight in weights.items() if weight is not None}
    if len(known) < len(weights) or not all_float32(x, *known.values()) or written_between(conv, fc2):
        return None
    with torch.device("meta"):
        expected = ConvNeurBlock(groups).state_dict()
    if x.meta["val"].ndim != 4 or any(expected[name].shape != weight.shape for name, weight in known.items()):
        return None
    same = (stride, padding, dilation, turned.args[1], list(shape)) == ([1, 1], [3, 3], [1, 1], _LAST, [groups])
    return _Found(x, conv, fc2, known, eps) if same else None


def _is_turned(node: Any, x: Node) -> bool:
    """Whether a node gives a map with its channels last."""
    return giver(node, _ATEN.permute.default) is x and node.args[1] == _LAST


def _block(found: _Found) -> ConvNeurBlock:
    channels = len(found.weights["norm.weight"])
    with torch.device("meta"):  # weights of its own would be thrown away
        block = ConvNeurBlock(channels)
    block.load_state_dict(found.weights | {"gamma": torch.ones(channels)}, assign=True)
    block.norm.eps = found.eps
    return block.requires_grad_(False).eval().fuse()
