"""A memory in a program is found again, and only where it is one to the letter."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from convneur.export.torch_graph import by_our_layers
from convneur.export.torch_memory import FoldedMemory, by_our_memory
from convneur.layers import GlobalBranch, branch_kernel
from convneur.memory import MemoryConfig

Layer = TypeVar("Layer", bound=nn.Module)
DIM, WIDTH = 8, 16
BATCHES = [(1, DIM, 12, 20), (3, DIM, 13, 9)]


@pytest.fixture(autouse=True)
def _memories_alone(monkeypatch):
    """The memory is part of a branch that would be found around it."""
    monkeypatch.setattr(branch_kernel, "LIBRARY", None)


def branch(memory: MemoryConfig | None = None, token_stride: int = 2, kind=GlobalBranch, **changes) -> GlobalBranch:
    torch.manual_seed(0)
    made = kind(DIM, WIDTH, token_stride, memory, **changes).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


class First(nn.Module):
    """The first answer of a branch."""

    def __init__(self, made: GlobalBranch) -> None:
        super().__init__()
        self.made = made

    def forward(self, images: Tensor) -> Tensor:
        return self.made(images)[0]


def loaded(made: GlobalBranch, dynamic: bool = True, answers: type[nn.Module] = First) -> GraphModule:
    axes = dict.fromkeys((0, 2, 3) if dynamic else (0,), torch.export.Dim.AUTO)
    images = torch.randn(2, *(DIM, 15, 17) if dynamic else BATCHES[0][1:])
    with torch.no_grad():
        module = torch.export.export(answers(made).eval(), (images,), dynamic_shapes=(axes,), strict=False).module()
    assert isinstance(module, GraphModule)
    return module


def found_in(
    module: GraphModule, shapes: list[tuple[int, ...]], name: str = "", kind: type[Layer] = FoldedMemory
) -> list[Layer]:
    """The memories found, or others of our layers, after a check that the module does what it did."""
    batches = [torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in shapes]
    with torch.inference_mode():
        wanted = [module(images) for images in batches]
        by_our_layers(module)
        for images, answer in zip(batches, wanted, strict=True):
            torch.testing.assert_close(module(images), answer, rtol=1e-4, atol=1e-5, msg=lambda text: f"{name}: {text}")
    return [each for each in module.modules() if isinstance(each, kind)]


@pytest.mark.parametrize("dynamic", [True, False], ids=["any size", "one size"])
@pytest.mark.parametrize("fuse", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (MemoryConfig(), {}),
        (MemoryConfig(), {"center_tokens": False}),
        (MemoryConfig(), {"carry_tokens": False, "shift": False}),
        (MemoryConfig(decay=False, heads=2), {}),
        (MemoryConfig(momentum=False, max_step=0.3), {}),
        (MemoryConfig(momentum=False, decay=False, heads=1), {}),
        (MemoryConfig(reference_length=None, max_step=0.02), {}),
        (MemoryConfig(reference_length=50, max_step=2.5), {}),
    ],
    ids=str,
)
def test_a_memory_is_found(config, changes, fuse, dynamic):
    made = branch(config, **changes)
    found = found_in(loaded(made.fuse() if fuse else made, dynamic), BATCHES if dynamic else [(3, *BATCHES[0][1:])])
    assert len(found) == 1
    assert found[0].center == changes.get("center_tokens", True)
    assert (found[0].config.heads, found[0].config.decay) == (config.num_heads, config.decay)


@pytest.mark.parametrize(
    "config",
    [MemoryConfig(state="mlp"), MemoryConfig(read="causal", chunk_size=1000), MemoryConfig(chunk_size=1000)],
    ids=["mlp", "causal", "chunks"],
)
def test_others_stay(config):
    assert found_in(loaded(branch(config)), BATCHES) == []


def test_it_can_be_followed_by_gradients():
    module, images = loaded(branch()), torch.randn(BATCHES[0])
    by_our_layers(module)
    images.requires_grad_()
    module(images).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_a_memory_with_any_other_node_in_it_computes_what_it_did():
    whole = loaded(branch().fuse())
    without = copy.deepcopy(whole)
    by_our_memory(without)
    inner = {node.name for node in whole.graph.nodes} - {node.name for node in without.graph.nodes}
    assert len(inner) > 30
    for name, module in disturbed(whole):
        goes = bool(found_in(module, BATCHES, name))
        assert goes == (name not in inner or name == last_of(whole).name), name


@pytest.mark.parametrize("number", [0.5, -1.0, 1e-3])
def test_a_memory_with_another_number_in_it_computes_what_it_did(number):
    whole = loaded(branch().fuse())
    places = [
        (node.name, index)
        for node in whole.graph.nodes
        for index, given in enumerate(node.args)
        if isinstance(given, float)
    ]
    assert len(places) >= 3, "the eps of norms and keys, and the step"
    for name, index in places:
        module = copy.deepcopy(whole)
        (node,) = (each for each in module.graph.nodes if each.name == name)
        node.update_arg(index, abs(number) if "rms" in name or "add" in name else number)
        module.recompile()
        found_in(module, BATCHES, f"{name} {index}")


@pytest.mark.parametrize(
    ("node", "goes"), [("sum_1", False), ("add_", False), ("rsqrt_", True), ("mul_1", True), ("rms_norm", True)]
)
def test_what_is_asked_for_elsewhere_stays(node, goes):
    module = loaded(branch().fuse())
    read = last_of(module)
    with module.graph.inserting_after(read):
        more = module.graph.call_function(torch.ops.aten.sum.default, (named(module, node),))
        more.meta = {"val": read.meta["val"].sum()}
    with module.graph.inserting_after(more):
        followed(read, module.graph.call_function(torch.ops.aten.add.Tensor, (read, more)))
    module.recompile()
    assert bool(found_in(module, BATCHES)) == goes


def test_tokens_that_are_written_meanwhile_keep_it_from_going():
    module = loaded(branch().fuse())
    read = last_of(module)
    with module.graph.inserting_before(read):
        module.graph.call_function(torch.ops.aten.mul_.Tensor, (read.args[0], 1.5))
    module.recompile()
    assert found_in(module, BATCHES) == []


def disturbed(whole: GraphModule) -> Iterator[tuple[str, GraphModule]]:
    """For each tensor that others take, its name and a copy in which they take a multiple of it."""
    for wanted in whole.graph.nodes:
        if not isinstance(wanted.meta.get("val"), Tensor) or not wanted.users:
            continue
        module = copy.deepcopy(whole)
        node = named(module, wanted.name)
        with module.graph.inserting_after(node):
            followed(node, module.graph.call_function(torch.ops.aten.mul.Tensor, (node, 1.25)))
        module.recompile()
        yield wanted.name, module


def named(module: GraphModule, name: str) -> Node:
    (node,) = (each for each in module.graph.nodes if each.name == name)
    return node


def last_of(module: GraphModule) -> Node:
    """What was read of the memory: the product with the normed tokens."""
    (norm, *_) = module.graph.find_nodes(op="call_function", target=torch.ops.aten.rms_norm.default)
    (read,) = (user for user in norm.users if user.target is torch.ops.aten.bmm.default)
    return read


def followed(node: Node, by: Node) -> None:
    """Let everybody take what follows a node in its place."""
    by.meta = dict(node.meta)
    node.replace_all_uses_with(by, delete_user_cb=lambda user: user is not by)
