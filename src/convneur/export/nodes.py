"""What changes of a graph ask of its nodes, and do to them."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import SymInt, Tensor, nn
from torch.fx import GraphModule, Node


def calls(module: GraphModule, target: Any) -> list[Node]:
    """Nodes that call an operator and give nothing by name."""
    return [node for node in module.graph.find_nodes(op="call_function", target=target) if not node.kwargs]


def arguments(node: Node, *defaults: Any) -> list[Any]:
    """What a node gives, with defaults for what it leaves out."""
    return [*node.args, *defaults[len(node.args) :]]


def giver(node: Any, target: Any) -> Any:
    """What a node is given first, if it calls this and gives nothing by name."""
    called = isinstance(node, Node) and node.target is target and not node.kwargs
    return node.args[0] if called else None


def expression(size: Any) -> Any:
    """A whole number of a graph, or what it follows from; None for anything else."""
    value = size.meta.get("val") if isinstance(size, Node) else size
    if isinstance(value, SymInt):
        return value.node.expr
    return value if isinstance(value, int) else None


def written_between(first: Node, last: Node, *own: Node) -> bool:
    """Whether something is written in place from one node to another, these and ``own`` aside."""
    node = first.next
    while first is not last and node is not last and node.op != "root":
        if node not in own and writes(node):
            return True
        node = node.next
    return False


def centred_from(x: Node, last: Node, *own: Node) -> Node | None:
    """Tokens (B, N, D), if ``x`` is what they are without their mean, as ``last`` still finds them."""
    if x.target is not torch.ops.aten.sub.Tensor or x.kwargs:
        return None
    tokens, mean = arguments(x, None, None)
    takes_mean = isinstance(mean, Node) and mean.target is torch.ops.aten.mean.dim and not mean.kwargs
    if not takes_mean or written_between(mean, last, *own):
        return None
    return tokens if mean.args == (tokens, [1], True) and tokens.meta["val"].ndim == 3 else None


def writes(node: Node) -> bool:
    """Whether a node changes what it is given."""
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def written_through(view: Node) -> bool:
    """Whether something is written into what a node gives, itself or a view of it."""
    return any(_is_view(user, view) and (writes(user) or written_through(user)) for user in view.users)


def _is_view(node: Node, of: Node) -> bool:
    """Whether what a node gives may share its memory with what it is given."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return node.target is operator.getitem
    return any(
        part.alias_info is not None and given is of for part, given in zip(schema.arguments, node.args, strict=False)
    )


def all_float32(*nodes: Node | Tensor | None) -> bool:
    """Whether these are all there, as tensors of that precision."""
    values = [node.meta.get("val") if isinstance(node, Node) else node for node in nodes]
    return all(isinstance(value, Tensor) and value.dtype is torch.float32 for value in values)


def alone(added: Node) -> bool:
    """Whether a node adds two tensors and does nothing else."""
    return not added.kwargs and isinstance(added.args[0], Node) and isinstance(added.args[0].meta.get("val"), Tensor)


def constant_of(module: GraphModule, node: Any) -> Tensor | None:
    """What the module has by this node's name; None for what is worked out."""
    if not isinstance(node, Node) or node.op != "get_attr" or any(map(writes, node.users)) or written_through(node):
        return None
    found: Tensor = operator.attrgetter(str(node.target))(module)
    return found.detach()


def call(module: GraphModule, node: Node, layer: nn.Module, *given: Any) -> Node:
    """Call a layer before a node is reached."""
    name = f"our_{node.name}"
    while hasattr(module, name):
        name += "_"
    module.add_submodule(name, layer)
    with module.graph.inserting_before(node):
        return module.graph.call_module(name, given)


def put(module: GraphModule, node: Node, layer: nn.Module, *given: Any) -> None:
    """Let a layer stand for a node."""
    replace(module, node, call(module, node, layer, *given))


def replace(module: GraphModule, node: Node, made: Node) -> None:
    """Let one node stand for another, which is erased."""
    made.meta = dict(node.meta)
    node.replace_all_uses_with(made)
    module.graph.erase_node(node)
