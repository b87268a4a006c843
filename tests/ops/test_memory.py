"""The formula of the memory is in one file, and everything computes with what stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from convneur import MemoryConfig, ops
from convneur.memory import contexts_in_parts
from tests.memory.builders import assert_equals_the_oracle, stirred_memory
from tests.ops.cases import built, close, double, global_branch_arguments
from tests.ops.test_decision import model
from tests.ops.test_kernels import check

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "memory.md"
write, read, reference = ops.memory.write, ops.memory.read, ops.memory.reference


def cubed(keys: Tensor, values: Tensor, steps: Tensor) -> Tensor:
    return write(keys, values**3, steps)


def bounded(memory: Tensor, keys: Tensor) -> Tensor:
    return read(memory, keys).tanh()


def without_keys(keys, values, steps):
    return reference(torch.ones_like(keys), values, steps)


RULES = {"write": cubed, "read": bounded, "reference": without_keys}


def learned(made: torch.nn.Module, images: Tensor) -> dict[str, Tensor]:
    made.zero_grad()
    made(images).square().sum().backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in made.named_parameters()}


@pytest.mark.parametrize("name", RULES)
def test_a_model_computes_and_learns_by_the_rule_that_stands_there(name, monkeypatch):
    made, images = model()
    keys = "stages.0.blocks.0.global_branch.memory.to_keys.weight"
    with ops.use_kernels(False):
        with torch.no_grad():
            before = made(images)
        slopes = learned(made, images)
        monkeypatch.setattr(ops.memory, name, RULES[name])
        with torch.no_grad():
            after = made(images)
        changed = learned(made, images)
    assert (after - before).norm() > 1e-4 * before.norm()
    assert (changed[keys] - slopes[keys]).norm() > 1e-2 * slopes[keys].norm()
    assert (name == "reference") == (not changed[keys].any()), "this rule sees no keys"


def carried(tokens: Tensor) -> Tensor:
    memory = stirred_memory(16, MemoryConfig())
    _, state = memory(tokens[:, :11], None, True)
    return memory(tokens[:, 11:], state)


def in_parts(tokens: Tensor) -> Tensor:
    memory = stirred_memory(16, MemoryConfig())
    return torch.cat(list(contexts_in_parts(memory, lambda: tokens.split(9, 1), tokens.shape[1])), 1)


def surprise(tokens: Tensor) -> Tensor:
    return stirred_memory(16, MemoryConfig()).surprise(tokens)


def branch_by_name(tokens: Tensor) -> Tensor:
    return ops.global_branch.op(*double(global_branch_arguments()))[0]


@pytest.mark.parametrize("name", ["write", "read"])
@pytest.mark.parametrize(
    "compute",
    [stirred_memory(16, MemoryConfig()), carried, in_parts, surprise, branch_by_name],
    ids="whole carried parts surprise branch-by-name".split(),
)
def test_all_write_and_read_by_the_same_functions(compute, name, monkeypatch):
    tokens = torch.randn(2, 30, 16, dtype=torch.float64)
    torch.manual_seed(1)
    before = compute(tokens)
    monkeypatch.setattr(ops.memory, name, RULES[name])
    torch.manual_seed(1)
    assert (compute(tokens) - before).norm() > 1e-3 * before.norm()


def test_a_memory_of_another_state_has_another_formula(monkeypatch):
    memory, tokens = stirred_memory(16, MemoryConfig(state="mlp")), torch.randn(2, 9, 16, dtype=torch.float64)
    expected = memory(tokens)
    for name, rule in RULES.items():
        monkeypatch.setattr(ops.memory, name, rule)
    assert torch.equal(memory(tokens), expected)


@built
def test_the_page_changes_the_rule(monkeypatch):
    """What it says: model and memories follow with kernels off; oracle and kernel fail until they follow."""
    section = PAGE.read_text().split("## Change the write rule")[1].split("\n## ")[0]
    (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    memory, tokens = stirred_memory(16, MemoryConfig()), torch.randn(2, 30, 16)
    assert_equals_the_oracle(memory, tokens)
    check(ops.global_branch)
    monkeypatch.setattr(ops.memory, "write", write)  # to be put back behind the test
    names: dict = {}
    exec(block, names)  # the point of this test
    assert ops.memory.write is not write
    assert (names["after"] - names["before"]).norm() > 1e-3 * names["before"].norm()
    with torch.inference_mode():  # by the kernel, which has the old rule
        close(names["model"](names["image"]), names["before"], 1e-4)
    with pytest.raises(AssertionError):
        assert_equals_the_oracle(memory, tokens)
    with pytest.raises(AssertionError):
        check(ops.global_branch)
