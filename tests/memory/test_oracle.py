"""The closed form against the float64 oracle: output, final state, gradients of every parameter and of the input."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from convneur import ops
from convneur.memory import MemoryConfig, MemoryState, NeuralMemory
from tests.covers import pairwise
from tests.memory.builders import assert_equals_the_oracle, stirred_memory

AXES = (("linear", "mlp"), ("global", "causal"), ("initial", "previous"))
MODES = list(itertools.product(*AXES))
CHUNKS = {1: 1, 63: 20, 100: 49, 196: 64, 1000: 196}
KNOBS: list[dict[str, Any]] = [
    {"momentum": False},
    {"decay": False},
    {"reference_length": None, "max_step": 0.05},
    {"heads": 1},
    {"heads": 3},
]


def make_memory(mode: tuple[str, str, str], chunk_size: int | None, width: int = 8, **knobs: Any) -> NeuralMemory:
    state, read, anchor = mode
    if (state, anchor) == ("mlp", "previous") and chunk_size is not None:
        knobs["max_step"] = 0.02  # longer steps are refused
    return stirred_memory(width, MemoryConfig(state, read, anchor, chunk_size=chunk_size, **{"heads": 2} | knobs))


@pytest.mark.parametrize("length", [1, 63, *(pytest.param(n, marks=pytest.mark.slow) for n in (100, 196, 1000))])
@pytest.mark.parametrize("mode", MODES, ids="-".join)
def test_equals_the_oracle(mode, length):
    memory = make_memory(mode, CHUNKS[length])
    tokens = torch.randn(1 if length == 1000 else 2, length, 8)
    assert_equals_the_oracle(memory, tokens, in_float32=True)


@pytest.mark.parametrize(("state", "read", "anchor", "knobs"), pairwise(*AXES, KNOBS))
def test_every_knob_equals_the_oracle(state, read, anchor, knobs):
    memory = make_memory((state, read, anchor), chunk_size=7, width=12, **knobs)
    assert_equals_the_oracle(memory, torch.randn(2, 25, 12))


@pytest.mark.parametrize("mode", MODES, ids="-".join)
def test_going_on_from_a_state_equals_the_oracle(mode):
    memory = make_memory(mode, chunk_size=7)
    _, carried = memory(torch.randn(2, 17, 8, dtype=torch.float64), return_state=True)
    carried = MemoryState(*(tuple(w.detach() for w in part) for part in carried[:2]), carried.pending.detach())
    assert_equals_the_oracle(memory, torch.randn(2, 24, 8), carried)


@pytest.mark.parametrize("state", ["linear", "mlp"])
def test_whole_image_as_one_chunk_equals_the_oracle(state):
    memory = make_memory((state, "global", "initial"), chunk_size=None)
    assert_equals_the_oracle(memory, torch.randn(2, 50, 8), in_float32=True)


@pytest.mark.parametrize("knobs", [{}, *KNOBS], ids=str)
def test_a_linear_memory_without_a_state_equals_the_oracle(knobs):
    """As in a model."""
    memory = make_memory(("linear", "global", "initial"), chunk_size=None, width=12, **knobs)
    assert_equals_the_oracle(memory, torch.randn(2, 40, 12), return_state=False, in_float32=True)


@pytest.mark.parametrize("return_state", [False, True])
@pytest.mark.parametrize("heads", [1, 3, 4])
@pytest.mark.parametrize("length", [2, 40])
def test_slots_equal_the_oracle(length, heads, return_state):
    memory = stirred_memory(12, MemoryConfig(heads=heads))
    assert_equals_the_oracle(memory, torch.randn(2, length, 12), return_state=return_state, in_float32=True)


def test_slots_that_go_on_from_a_state_equal_the_oracle():
    memory = stirred_memory(8, MemoryConfig(heads=2))
    with torch.no_grad():
        _, carried = memory(torch.randn(2, 17, 8, dtype=torch.float64), return_state=True)
    assert_equals_the_oracle(memory, torch.randn(2, 24, 8), carried)


def test_what_is_written_to_slots_is_the_optimum_of_the_inner_loss():
    """`sum_ij a_ij |M_j - s_i v_i|^2`: its gradient at M is zero, and it grows in every direction."""
    keys, values, steps = torch.randn(2, 3, 20, 5).double(), torch.randn(2, 3, 20, 4).double(), torch.rand(2, 3, 20, 1)
    weights = (3 * keys).exp() / (3 * keys).exp().sum(-2, keepdim=True)

    def loss(memory: torch.Tensor) -> torch.Tensor:
        return (weights * (memory.unsqueeze(-3) - (steps * values).unsqueeze(-2)).square().sum(-1)).sum()

    memory = ops.memory.write(keys, values, steps.double()).requires_grad_()
    (slope,) = torch.autograd.grad(loss(memory), memory)
    assert slope.abs().max() < 1e-12
    assert all(loss(memory + 0.1 * torch.randn_like(memory)) > loss(memory) for _ in range(5))
