"""A global branch in a program is found again around its memory, and only where it is one to the letter."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

from convneur.export.torch_graph import by_our_layers
from convneur.export.torch_memory import FoldedMemory
from convneur.layers import GlobalBranch, branch_kernel
from convneur.memory import MemoryConfig
from tests.export.test_torch_memory import BATCHES, First, branch, disturbed, found_in, loaded, named

pytestmark = pytest.mark.skipif(branch_kernel.LIBRARY is None, reason="the C library of the branch was not built")


class Both(nn.Module):
    """All answers of a branch, one after the other."""

    def __init__(self, made: GlobalBranch) -> None:
        super().__init__()
        self.made = made

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([each for each in self.made(images) if each is not None], 1)


class Reversed(Both):
    """The same, the second answer first."""

    def forward(self, images: Tensor) -> Tensor:
        gate, shift = self.made(images)
        return torch.cat([shift.sin(), gate], 1)


@pytest.mark.parametrize("dynamic", [True, False], ids=["any size", "one size"])
@pytest.mark.parametrize("answers", [First, Both])
@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (MemoryConfig(), {}),
        (MemoryConfig(), {"token_stride": 1}),
        (MemoryConfig(), {"token_stride": 3, "center_tokens": False}),
        (MemoryConfig(), {"carry_tokens": False}),
        (MemoryConfig(), {"carry_tokens": False, "center_tokens": False, "shift": False}),
        (MemoryConfig(), {"shift": False}),
        (MemoryConfig(decay=False, heads=2), {}),
        (MemoryConfig(momentum=False, max_step=0.3), {}),
        (MemoryConfig(reference_length=None, max_step=0.02, heads=1), {}),
    ],
    ids=str,
)
def test_a_branch_is_found(config, changes, answers, dynamic):
    module = loaded(branch(config, **changes).fuse(), dynamic, answers)
    shapes = BATCHES if dynamic else [(3, *BATCHES[0][1:])]
    (found,) = found_in(module, shapes, kind=GlobalBranch)
    assert found.token_stride == changes.get("token_stride", 2)
    assert (found.center_tokens, found.carry_norm is not None) == (
        changes.get("center_tokens", True),
        changes.get("carry_tokens", True),
    )
    assert not any(isinstance(each, FoldedMemory) for each in map(module.get_submodule, called(module)))


@pytest.mark.parametrize("answers", [First, Both, Reversed])
def test_it_takes_one_call(monkeypatch, answers):
    module, calls = loaded(branch().fuse(), answers=answers), []
    by_our_layers(module)
    take = branch_kernel.answers
    monkeypatch.setattr(branch_kernel, "answers", lambda *given: calls.append(given) or take(*given))
    images = torch.randn(BATCHES[1])
    with torch.inference_mode():
        others = module(images)
        assert calls == []
        here = module(images.to(memory_format=torch.channels_last))
    assert len(calls) == 1
    torch.testing.assert_close(here, others, rtol=1e-4, atol=1e-5)


def test_a_branch_that_is_not_fused_stays():
    assert found_in(loaded(branch()), BATCHES, kind=GlobalBranch) == []


def test_without_the_library_it_stays(monkeypatch):
    monkeypatch.setattr(branch_kernel, "LIBRARY", None)
    assert found_in(loaded(branch().fuse()), BATCHES, kind=GlobalBranch) == []


@pytest.mark.parametrize(("config", "changes"), [(MemoryConfig(state="mlp"), {}), (None, {"globalizer": "attention"})])
def test_others_stay(config, changes):
    assert found_in(loaded(branch(config, **changes)), BATCHES, kind=GlobalBranch) == []


def test_it_can_be_followed_by_gradients():
    module, images = loaded(branch().fuse(), answers=Both), torch.randn(BATCHES[0])
    by_our_layers(module)
    images.requires_grad_()
    module(images).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_a_branch_with_any_other_node_in_it_computes_what_it_did():
    whole = loaded(branch().fuse(), answers=Both)
    without = copy.deepcopy(whole)
    by_our_layers(without)
    inner = {node.name for node in whole.graph.nodes} - {node.name for node in without.graph.nodes}
    (both,) = whole.graph.find_nodes(op="call_function", target=torch.ops.aten.cat.default)
    ends = [each.name for each in both.args[0]]
    assert inner.issuperset(ends)
    assert len(inner) > 60
    for name, module in disturbed(whole):
        goes = bool(found_in(module, BATCHES, name, GlobalBranch))
        # What follows the means is a map for a branch of one pixel per token.
        assert goes == (name not in inner or name in (*ends, "avg_pool2d")), name


class Pooled(GlobalBranch):
    """Tokens of other means."""

    how: ClassVar[dict[str, Any]] = {}

    def tokens(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        settings = {"kernel_size": 2, "ceil_mode": True, "count_include_pad": False} | self.how
        x = F.avg_pool2d(x, **settings)
        return self.down(x.permute(0, 2, 3, 1).flatten(1, 2)), (x.shape[2], x.shape[3])


@pytest.mark.parametrize(
    ("how", "goes"),
    [
        ({}, True),
        ({"stride": 2}, True),
        ({"kernel_size": 3, "stride": 3}, True),
        ({"kernel_size": 3, "stride": 2}, False),
        ({"kernel_size": (2, 3)}, False),
        ({"padding": 1}, False),
        ({"ceil_mode": False}, False),
        ({"count_include_pad": True}, False),
        ({"divisor_override": 3}, False),
    ],
    ids=str,
)
def test_means_of_another_kind_stay(monkeypatch, how, goes):
    monkeypatch.setattr(Pooled, "how", how)
    module = loaded(branch(kind=Pooled).fuse(), dynamic=False, answers=Both)
    assert bool(found_in(module, [(3, *BATCHES[0][1:])], kind=GlobalBranch)) == goes


class Across(GlobalBranch):
    def tokens(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        return self.down(x.permute(0, 3, 2, 1).flatten(1, 2)), (x.shape[3], x.shape[2])


class Tall(GlobalBranch):
    def answers(self, tokens: Tensor, read: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        return super().answers(tokens, read, (grid[0] * grid[1], 1))


class Twice(GlobalBranch):
    def answers(self, tokens: Tensor, read: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        gate, shift = super().answers(tokens, read, grid)
        return gate, shift * self._on_grid(self.up(self.norm(read)), grid)


class Scaled(GlobalBranch):
    def answers(self, tokens: Tensor, read: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        context, carried = self._contexts(tokens, read)
        gate = F.linear(carried, 2 * self.up.weight, self.up.bias)
        return self._on_grid(gate, grid), self._on_grid(self.up_shift(context), grid)


class Early(GlobalBranch):
    def answers(self, tokens: Tensor, read: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        context, carried = self._contexts(tokens, read)
        gate = self.up(carried)
        return self._on_grid(gate, grid) * gate.mean(), self._on_grid(self.up_shift(context), grid)


class Contexts(GlobalBranch):
    """Answers of other contexts."""

    made: Callable[[GlobalBranch, Tensor, Tensor], tuple[Tensor, Tensor]]

    def _contexts(self, tokens: Tensor, read: Tensor) -> tuple[Tensor, Tensor]:
        return type(self).made(self, tokens, read)


def _carries(how: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    return lambda self, tokens, read: (context := self.norm(read), how(context, self.carry_norm(tokens)))


@pytest.mark.parametrize(
    "made",
    [
        _carries(lambda context, carry: torch.add(context, carry, alpha=2)),
        _carries(lambda context, carry: context * carry),
        _carries(lambda context, carry: context + 1),
        _carries(lambda context, carry: context + carry * carry),
        _carries(lambda context, carry: context + carry.mean(1, keepdim=True)),
        lambda self, tokens, read: (self.norm(read), self.norm(read) + self.carry_norm(read)),
        lambda self, tokens, read: (self.norm(read), self.norm(read) + self.carry_norm(2 * tokens)),
        lambda self, tokens, read: (read.tanh(), self.norm(read) + self.carry_norm(tokens)),
        lambda self, tokens, read: (tokens, self.norm(read) + self.carry_norm(tokens)),
        lambda self, tokens, read: ((both := self.norm(read) + self.carry_norm(tokens)), both),
        lambda self, tokens, read: ((context := self.norm(read)) + self.carry_norm(tokens), context),
        lambda self, tokens, read: (
            F.rms_norm(read, read.shape[-1:], self.norm.weight, 1e-2),
            F.rms_norm(read, read.shape[-1:], self.norm.weight, 1e-2) + self.carry_norm(tokens),
        ),
    ],
)
def test_contexts_of_another_kind_compute_what_they_did(monkeypatch, made):
    monkeypatch.setattr(Contexts, "made", made, raising=False)
    found_in(loaded(branch(kind=Contexts).fuse(), answers=Both), BATCHES, kind=GlobalBranch)


@pytest.mark.parametrize("kind", [Across, Tall, Twice, Scaled, Early])
def test_what_is_not_quite_a_branch_stays(kind):
    module = loaded(branch(token_stride=1, kind=kind).fuse(), answers=First if kind is Tall else Both)
    assert found_in(module, BATCHES, kind=GlobalBranch) == []


@pytest.mark.parametrize("place", ["read", "context", "down", "up"])
def test_what_is_written_meanwhile_keeps_it_from_going(place):
    module = loaded(branch(token_stride=1).fuse(), answers=Both)
    linears = module.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)
    norms = module.graph.find_nodes(op="call_function", target=torch.ops.aten.rms_norm.default)
    before = {"read": norms[1], "context": norms[2], "down": linears[0], "up": linears[-1]}[place]
    (images,) = module.graph.find_nodes(op="placeholder")
    with module.graph.inserting_before(before):
        module.graph.call_function(torch.ops.aten.mul_.Tensor, (images, 1.0))
    module.recompile()
    assert found_in(module, BATCHES, kind=GlobalBranch) == []


def test_weights_that_are_written_through_a_view_keep_it_from_going():
    module = loaded(branch().fuse(), answers=Both)
    weight = named(module, "made_folded_stored")
    with module.graph.inserting_after(weight):
        view = module.graph.call_function(torch.ops.aten.slice.Tensor, (weight, 0, 0, 9))
    with module.graph.inserting_after(view):
        module.graph.call_function(torch.ops.aten.mul_.Tensor, (view, 1.0))
    module.recompile()
    assert found_in(module, BATCHES, kind=GlobalBranch) == []


class Unread(GlobalBranch):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        tokens, grid = self.tokens(x)
        self._read(tokens, grid)
        return tokens * 2, None


def test_a_memory_that_nobody_asks_is_no_branch():
    assert found_in(loaded(branch(kind=Unread).fuse()), BATCHES, kind=GlobalBranch) == []


def called(module: GraphModule) -> list[str]:
    return [str(node.target) for node in module.graph.find_nodes(op="call_module")]
