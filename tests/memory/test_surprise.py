"""Surprise, and what is read before anything is written."""

from __future__ import annotations

import pytest
import torch

from convneur.memory import MemoryConfig, reference
from tests.memory.builders import by_the_oracle, stirred_memory

WIDTH, COUNT = 4, 7


@pytest.mark.parametrize("anchor", ["initial", "previous"])
@pytest.mark.parametrize(("read", "chunk"), [("global", None), ("global", 3), ("causal", 3)])
@pytest.mark.parametrize("state", ["linear", "mlp"])
def test_surprise_is_what_the_oracle_says(state, read, chunk, anchor):
    config = MemoryConfig(state, read, anchor, heads=2, chunk_size=chunk, max_step=0.02)
    memory, tokens = stirred_memory(WIDTH, config), torch.randn(1, COUNT, WIDTH, dtype=torch.float64)
    expected = by_the_oracle(memory, tokens[0])
    with torch.inference_mode():
        torch.testing.assert_close(memory.surprise(tokens)[0], expected.surprise, rtol=1e-9, atol=0, equal_nan=True)
        torch.testing.assert_close(memory.read_initial(tokens)[0], expected.read_initial, rtol=1e-9, atol=1e-12)
    assert expected.surprise.isnan().sum() == (1 if read == "causal" else 0)


def test_surprise_of_slots_is_what_the_oracle_says():
    """How far what is read is from the value that was written."""
    memory, tokens = stirred_memory(WIDTH, MemoryConfig(heads=2)), torch.randn(2, COUNT, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        read = reference(memory, tokens)
        _, values, steps = memory.inputs(tokens)
        written = (steps * values).transpose(1, 2).flatten(2)
        expected = (read - written).square().mean(-1)
        torch.testing.assert_close(memory.surprise(tokens), expected, rtol=1e-9, atol=0)
        assert not memory.read_initial(tokens).any()


def test_where_no_chunk_is_ever_written_nothing_surprises():
    memory = stirred_memory(WIDTH, MemoryConfig("linear", read="causal", chunk_size=10))
    tokens = torch.randn(2, COUNT, WIDTH, dtype=torch.float64)
    assert memory.surprise(tokens).isnan().all()
    torch.testing.assert_close(memory.read_initial(tokens), memory(tokens))


@pytest.mark.parametrize("state", ["slots", "linear"])
def test_tokens_of_another_width_are_refused(state):
    memory, tokens = stirred_memory(WIDTH, MemoryConfig(state)), torch.randn(1, 3, 5, dtype=torch.float64)
    for call in (memory.surprise, memory.read_initial):
        with pytest.raises(ValueError, match="the width of this memory"):
            call(tokens)
