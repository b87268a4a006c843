"""The mlp state's kernels in C compute what the oracle computes."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from convneur import MemoryConfig
from convneur.memory import library, mlp_kernels, reference
from convneur.memory.neural_memory import NeuralMemory
from tests.memory.kernel_builders import answers, built, guarded, stirred


@built
@pytest.mark.parametrize("knobs", [{}, {"momentum": False}, {"decay": False}, {"read": "causal", "chunk_size": 50}])
@pytest.mark.parametrize("heads", [1, 2, 5])
@pytest.mark.parametrize("count", [1, 9, 196, 300])
def test_the_mlp_state_is_what_the_oracle_says(knobs, heads, count, counted):
    """Heads of 16 to 80 numbers; also where tokens are read in chunks, which the read alone is for."""
    memory = stirred(NeuralMemory(80, MemoryConfig(state="mlp", heads=heads, **knobs)))
    tokens = torch.randn(2, count, 80) + torch.randn(80)
    double = copy.deepcopy(memory).double()
    with torch.no_grad():
        found, without = (answers(memory, tokens, loaded)[0] for loaded in (counted, None))
    expected = reference(double, tokens.double())
    spread = expected.abs().max()
    torch.testing.assert_close(found.double() / spread, expected / spread, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(found / spread, without / spread, rtol=1e-5, atol=2e-6)
    if "read" not in knobs:
        assert counted.calls == {"unit": 2, "gelu": 2, "mlp_error": 1, "mlp_answer": 1}


@built
def test_gelu_and_its_slope():
    far = torch.tensor([-1e30, -90.0, -0.0, 1e30, math.inf])  # of the last PyTorch makes no number
    x = torch.cat([torch.linspace(-15, 15, 4000), far, torch.full((3,), math.nan)])
    near = x[:4000].double().requires_grad_()
    expected = F.gelu(near)
    (slope,) = torch.autograd.grad(expected.sum(), near)
    for with_slope in (True, False):
        hidden, found = mlp_kernels.gelu(x.clone(), with_slope)
        torch.testing.assert_close(hidden[:4000].double(), expected, rtol=0, atol=5e-7)
        torch.testing.assert_close(hidden[4000:4005], torch.tensor([-0.0, -0.0, -0.0, 1e30, math.inf]))
        assert hidden[4005:].isnan().all()
        if with_slope:
            torch.testing.assert_close(found[:4000].double(), slope, rtol=0, atol=5e-7)
            torch.testing.assert_close(found[4000:4004], torch.tensor([0.0, 0.0, 0.5, 1.0]))
        else:
            assert found is hidden


@built
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("groups", "count", "width"), [(1, 1, 8), (2, 5, 24), (1, 1100, 40), (3, 300, 8)])
def test_nothing_of_the_mlp_state_is_written_beyond_its_place(groups, count, width, threads):
    keys, values, steps = (
        torch.randn(groups, count, width),
        torch.randn(groups, count, width),
        torch.rand(groups, count),
    )
    gain, shape = torch.randn(groups, width), (groups, count, width)
    outs = [guarded(*shape), guarded(*shape), guarded(groups, width), guarded(threads * width)]
    (update, _), (hidden, _), (by_gain, _), (room, _) = outs
    update.copy_(torch.randn(shape))
    loaded = library.LIBRARY
    given = (keys, values, steps, gain, update, by_gain, room)
    loaded.convneur_mlp_error(*(each.data_ptr() for each in given), threads, groups, count, width, 1e-5)
    loaded.convneur_mlp_answer(keys.data_ptr(), gain.data_ptr(), update.data_ptr(), threads, groups, count, width, 1e-5)
    loaded.convneur_gelu(update.data_ptr(), hidden.data_ptr(), 1, threads, update.numel())
    for made, behind_it in outs[:3]:
        assert made.isfinite().all()
        assert (behind_it == 7).all()
    assert (outs[3][1] == 7).all()
