"""The global branches of an exported program, by the one call that a branch makes of its own.

A branch is looked for around a memory that was found already (`convneur.export.torch_memory`): what makes its tokens of
a map, and what makes answers on the token grid of what was read.
"""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from convneur.export.nodes import (
    all_float32,
    alone,
    arguments,
    call,
    constant_of,
    expression,
    giver,
    replace,
    written_between,
)
from convneur.export.torch_memory import FoldedMemory
from convneur.layers import GlobalBranch, branch_kernel
from convneur.memory import Folded
from convneur.memory.norm import EPS

_ATEN = torch.ops.aten
_FIRST, _LAST = [0, 3, 1, 2], [0, 2, 3, 1]  # channels


class _Tokens(NamedTuple):
    """Nodes that make tokens of a map: its means on the token grid, and where all begins; and pixels per token."""

    x: Node
    means: Node
    first: Node
    stride: int
    linear: Node


class _Answers(NamedTuple):
    """Nodes that make answers of what was read: norms, maps and the answers; the second of each if there is one."""

    norms: list[Node]
    linears: list[Node]
    maps: list[Node]


def by_our_global_branch(module: GraphModule) -> None:
    """Let our global branches do what those of a graph do whose memories were found; it is changed."""
    if branch_kernel.LIBRARY is None:
        return
    for node in module.graph.find_nodes(op="call_module"):
        memory = module.get_submodule(str(node.target))
        if not isinstance(memory, FoldedMemory):
            continue
        tokens = _tokens(node.args[0])
        answers = None if tokens is None else _answers(node, tokens)
        if tokens is None or answers is None:
            continue
        branch = _made(module, node, memory, tokens, answers)
        order = {each: number for number, each in enumerate(module.graph.nodes)}
        maps = sorted(answers.maps, key=order.__getitem__)
        if branch is None or written_between(tokens.first, maps[-1]):
            continue
        both = call(module, maps[0], branch, tokens.x)
        with module.graph.inserting_before(maps[0]):
            made = [module.graph.call_function(operator.getitem, (both, index)) for index in range(len(maps))]
        for answer, node_of_ours in zip(answers.maps, made, strict=True):
            replace(module, answer, node_of_ours)
    module.graph.eliminate_dead_code()  # or others would lay out what is no longer read


def _tokens(linear: Any) -> _Tokens | None:
    """What gives tokens (B, N, D), if a branch gives them like this."""
    flat = giver(linear, _ATEN.linear.default)
    turned = giver(flat, _ATEN.flatten.using_ints)
    means = giver(turned, _ATEN.permute.default)
    if means is None or (turned.args[1], flat.args[1:]) != (_LAST, (1, 2)) or not all_float32(means):
        return None
    x = giver(means, _ATEN.avg_pool2d.default)
    if x is None:
        return _Tokens(means, means, turned, 1, linear)
    _, size, stride, *how = arguments(means, None, None, [], [0, 0], False, True, None)
    if size != size[:1] * 2 or stride not in ([], size) or how != [[0, 0], True, False, None] or not all_float32(x):
        return None
    return _Tokens(x, means, means, size[0], linear)


def _answers(read: Node, tokens: _Tokens) -> _Answers | None:
    """What follows from what was read about tokens, if a branch makes that of it and nothing else."""
    context = next(iter(read.users), None)
    if context is None or len(read.users) > 1 or not _is_norm(context, read):
        return None
    users = list(context.users)
    norms, carried = [context], context
    added = [each for each in users if each.target is _ATEN.add.Tensor]
    if added:
        carried, (_, carry) = added[0], arguments(added[0], None, None)
        if len(added) > 1 or not alone(carried) or carried.args[0] is not context:
            return None
        if not _is_norm(carry, tokens.linear) or len(carry.users) > 1:
            return None
        norms.append(carry)
        users = [*carried.users, *(each for each in users if each is not carried)]
    if not 1 <= len(users) <= 2 or (added and list(carried.users) != users[:1]):
        return None
    maps = [_on_grid(linear, tokens.means) for linear in users]
    found = [each for each in maps if each is not None]
    return _Answers(norms, users, found) if len(found) == len(maps) else None


def _is_norm(node: Any, of: Node) -> bool:
    if giver(node, _ATEN.rms_norm.default) is not of:
        return False
    _, shape, gain, eps = arguments(node, *[None] * 4)
    return len(shape) == 1 and gain is not None and eps == EPS


def _on_grid(linear: Node, means: Node) -> Node | None:
    """The map (B, C, h, w) that is made of tokens (B, N, C) behind a linear map, and of nothing else."""
    if linear.target is not _ATEN.linear.default or linear.kwargs or len(linear.users) > 1:
        return None
    shaped: Any = next(iter(linear.users), None)
    made: Any = next(iter(shaped.users), None) if giver(shaped, _ATEN.reshape.default) is linear else None
    if giver(made, _ATEN.permute.default) is not shaped or made.args[1] != _FIRST or len(shaped.users) > 1:
        return None
    same = all_float32(made) and _sizes(made) == _sizes(means)
    return made if same else None


def _sizes(node: Node) -> list[Any]:
    return [expression(size) for size in node.meta["val"].shape]


def _made(
    module: GraphModule, read: Node, memory: FoldedMemory, tokens: _Tokens, answers: _Answers
) -> GlobalBranch | None:
    """A branch with the weights that the nodes have, fused; None if it would need others."""
    parts = [constant_of(module, node) for node in read.args[1:]]
    weights: dict[str, Tensor | None] = {}
    for name, node in zip(("norm", "carry_norm"), answers.norms, strict=False):
        weights[f"{name}.weight"] = constant_of(module, node.args[2])
    for name, node in zip(("down", "up", "up_shift"), (tokens.linear, *answers.linears), strict=False):
        _, weight, bias = arguments(node, None, None, None)
        weights[f"{name}.weight"] = constant_of(module, weight)
        if bias is not None:
            weights[f"{name}.bias"] = constant_of(module, bias)
    if any(part is None for part in (*parts, *weights.values())):
        return None
    folded = Folded(*(part for part in parts if part is not None))
    weights |= _unfolded(folded)
    with torch.device("meta"):  # weights of its own would be thrown away
        branch = GlobalBranch(
            dim=tokens.means.meta["val"].shape[1],
            width=len(folded.queries),
            token_stride=tokens.stride,
            memory=memory.config,
            center_tokens=memory.center,
            carry_tokens=len(answers.norms) > 1,
            shift=len(answers.linears) > 1,
        )
    if {name: weight.shape for name, weight in branch.state_dict().items()} != {
        name: weight.shape for name, weight in weights.items() if weight is not None
    } or not all_float32(*weights.values()):
        return None
    branch.load_state_dict(weights, assign=True)
    return branch.requires_grad_(False).eval().fuse()


def _unfolded(folded: Folded) -> dict[str, Tensor]:
    """Weights of a branch of which `convneur.memory.fold` makes this: gains are in the maps, and one."""
    width, one = len(folded.queries), folded.queries.new_ones(len(folded.queries))
    keys, values, rates = folded.stored.split([width, width, len(folded.bias)])
    memory = {
        "store_norm.weight": one,
        "retrieve_norm.weight": one,
        "to_keys.weight": keys,
        "to_values.weight": values,
        "to_rates.weight": rates,
        "to_rates.bias": folded.bias,
        "to_queries.weight": folded.queries.mT,
        "fast.weight": folded.initial,
    }
    made = {f"memory.{name}": weight for name, weight in memory.items()}
    made["proj.weight"] = folded.proj.flatten(0, 1).mT
    return {name: weight.contiguous() for name, weight in made.items()}
