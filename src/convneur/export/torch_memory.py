"""The default memory found again in the graph of a program, so that its kernels may do what forty nodes do.

What it looks like in a graph is not written down here: the memory itself is traced, and both graphs are compared.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import SymInt, Tensor, nn
from torch.export import Dim
from torch.fx import GraphModule, Node

from convneur.export.nodes import all_float32, calls, centred_from, expression, put, writes, written_between
from convneur.memory import Folded, MemoryConfig, read_folded, write_folded

_ATEN = torch.ops.aten
_ANY_STEP = math.sqrt(math.pi)  # of the patterns: a number that stands for any, and that nothing else in them is


class FoldedMemory(nn.Module):
    """``proj(memory(tokens))`` of tokens (B, N, D) and of what does not depend on them."""

    def __init__(self, config: MemoryConfig, center: bool) -> None:
        super().__init__()
        self.config, self.center = config, center

    def forward(self, tokens: Tensor, *parts: Tensor) -> Tensor:
        """Tokens (B, N, D) and the parts of `Folded` -> (B, N, D)."""
        folded = Folded(*parts)
        if self.center:
            tokens = tokens - tokens.mean(1, keepdim=True)
        return read_folded(folded, write_folded(self.config, folded, tokens))


class _Traced(nn.Module):
    """The same of tokens that are centred already, in PyTorch's operators."""

    def __init__(self, config: MemoryConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, tokens: Tensor, *parts: Tensor) -> Tensor:
        folded = Folded(*parts)
        return read_folded(folded, write_folded(self.config, folded, tokens))


class _Pattern(NamedTuple):
    """A memory as a graph.

    Attributes:
        config: Its knobs, but for the largest step.
        inputs: Tokens and the parts of `Folded`.
        output: What was read.
        step: What stands in the graph for the largest step of a token, 2 / d and the like included.
    """

    config: MemoryConfig
    inputs: list[Node]
    output: Node
    step: float


def by_our_memory(module: GraphModule) -> None:
    """Let `FoldedMemory` stand for the nodes that write and read a memory; the graph is changed."""
    for node in calls(module, _ATEN.bmm.default):
        sizes = _sizes(node)
        if sizes is None:
            continue
        for momentum, decay, reference in itertools.product((True, False), (True, False), (196, None)):
            pattern = _pattern(momentum, decay, reference, *sizes)
            found = _Comparison(pattern)
            if found.same(pattern.output, node):
                _put(module, node, pattern, found)
                break


def _sizes(node: Node) -> tuple[int, int] | None:
    """Heads, and the width of one, by the map behind a memory whose last node this could be."""
    found: Any = node
    for index in (1, 1, 0, 1, 0, 0):
        if not isinstance(found, Node) or len(found.args) <= index:
            return None
        found = found.args[index]
    value = found.meta.get("val") if isinstance(found, Node) else None
    if not isinstance(value, Tensor) or value.ndim != 3 or not all(isinstance(size, int) for size in value.shape):
        return None
    heads, head, width = value.shape
    return (heads, head) if heads * head == width else None


@lru_cache(maxsize=64)
def _pattern(momentum: bool, decay: bool, reference: int | None, heads: int, head: int) -> _Pattern:
    config = MemoryConfig(momentum=momentum, decay=decay, reference_length=reference, heads=heads, max_step=_ANY_STEP)
    width, rates = heads * head, heads * (1 + momentum + decay)
    parts = Folded(
        initial=torch.empty(heads, head, head),
        stored=torch.empty(2 * width + rates, width),
        bias=torch.empty(rates),
        queries=torch.empty(width, width),
        proj=torch.empty(heads, head, width),
    )
    axes = ({0: Dim.AUTO, 1: Dim.AUTO}, (None,) * len(parts))
    with torch.no_grad():
        given = (torch.empty(2, 3, width), *parts)
        program = torch.export.export(_Traced(config), given, dynamic_shapes=axes, strict=False)
    inputs = program.graph.find_nodes(op="placeholder")
    step = _ANY_STEP * 2 / head * (1 if reference is None else reference)
    return _Pattern(config, inputs, program.graph.output_node().args[0][0], step)


class _Comparison:
    """Whether nodes of a graph do what those of a pattern do.

    Attributes:
        found: The node for each of the pattern, sizes aside.
        steps: What there is for the step in the pattern, over that; one number if it is the same memory.
    """

    def __init__(self, pattern: _Pattern) -> None:
        self.pattern, self.found, self.steps = pattern, dict[Node, Any](), set[float]()

    def same(self, wanted: Any, there: Any) -> bool:
        """Compare what two nodes are given, and so on to the inputs of the pattern."""
        if isinstance(wanted, Node):
            if isinstance(size := wanted.meta.get("val"), SymInt):
                return self._size(size) == expression(there)
            if wanted in self.found:
                return self.found[wanted] is there
            if not isinstance(there, Node):
                return False
            self.found[wanted] = there
            if wanted in self.pattern.inputs:
                return self._fits(wanted, there)
            alike = (wanted.op, _target(wanted)) == (there.op, _target(there))
            return alike and self.same(wanted.args, there.args) and self.same(wanted.kwargs, there.kwargs)
        if isinstance(wanted, Mapping):
            return isinstance(there, Mapping) and self.same(list(wanted.items()), list(there.items()))
        if isinstance(wanted, Sequence) and not isinstance(wanted, str):
            if not isinstance(there, Sequence) or len(wanted) != len(there):
                return False
            return all(self.same(*both) for both in zip(wanted, there, strict=True))
        if isinstance(wanted, float) and isinstance(there, float) and abs(wanted) == self.pattern.step:
            self.steps.add(there / wanted)
            return True
        return type(wanted) is type(there) and wanted == there

    def _fits(self, wanted: Node, there: Node) -> bool:
        """Whether an input has the shape and precision that the kernels take."""
        if not all_float32(there):
            return False
        shape, sizes = wanted.meta["val"].shape, there.meta["val"].shape
        # Any batch and number of tokens will do.
        fixed = slice(2, None) if wanted is self.pattern.inputs[0] else slice(None)
        return len(shape) == len(sizes) and tuple(shape[fixed]) == tuple(sizes[fixed])

    def _size(self, size: SymInt) -> Any:
        """What a size in the pattern is there; tokens come first in it, so they have been found."""
        tokens = self.pattern.inputs[0]
        sizes = zip(tokens.meta["val"].shape[:2], self.found[tokens].meta["val"].shape[:2], strict=True)
        known = {mine.node.expr: expression(theirs) for mine, theirs in sizes}
        return size.node.expr.subs(known, simultaneous=True)


def _put(module: GraphModule, node: Node, pattern: _Pattern, comparison: _Comparison) -> None:
    """Let our memory stand for what was found, up to ``node``, if nothing else hangs on it."""
    found, (step, *others) = comparison.found, comparison.steps
    inner = {there: None for wanted, there in found.items() if wanted not in pattern.inputs}
    inside = [each for each in module.graph.nodes if each in inner]
    overwritten = [each.args[0] for each in inside if writes(each)]
    if others or not 0 < step < math.inf or any(user not in inner for each in overwritten for user in each.users):
        return
    if written_between(inside[0], node, *inside):
        return
    centred, *parts = (found[each] for each in pattern.inputs)
    tokens = centred_from(centred, node, *inside)
    memory = FoldedMemory(replace(pattern.config, max_step=_ANY_STEP * step), center=tokens is not None)
    put(module, node, memory, centred if tokens is None else tokens, *parts)
    for each in reversed(inside[:-1]):  # what writes in place would be kept otherwise
        if not each.users:
            module.graph.erase_node(each)


def _target(node: Node) -> Any:
    return _ATEN.reshape.default if node.target is _ATEN.view.default else node.target
