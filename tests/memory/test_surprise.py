"""Surprise and unwritten answers, held against a memory in plain Python."""

import math

import pytest
import torch

from convneur.memory import MemoryConfig, NeuralMemory
from tests.memory.by_hand import by_hand

WIDTH, COUNT = 4, 7


def stirred(**knobs) -> NeuralMemory:
    memory = NeuralMemory(WIDTH, MemoryConfig(**knobs)).double()
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return memory


@pytest.mark.parametrize("anchor", ["initial", "previous"])
@pytest.mark.parametrize(("read", "chunk"), [("global", None), ("global", 3), ("causal", 3)])
@pytest.mark.parametrize("state", ["linear", "mlp"])
def test_surprise_is_what_the_formula_says(state, read, chunk, anchor):
    memory = stirred(state=state, read=read, anchor=anchor, chunk_size=chunk, heads=2, max_step=0.02)
    tokens = torch.randn(1, COUNT, WIDTH, dtype=torch.float64)
    surprise, reads, unwritten = by_hand(memory, tokens[0].tolist())
    with torch.inference_mode():
        torch.testing.assert_close(memory(tokens)[0].tolist(), reads, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(memory.surprise(tokens)[0].tolist(), surprise, rtol=1e-6, atol=0, equal_nan=True)
        torch.testing.assert_close(memory.unwritten(tokens)[0].tolist(), unwritten, rtol=1e-9, atol=1e-12)
    assert sum(map(math.isnan, surprise)) == (1 if read == "causal" else 0)


def test_where_no_chunk_is_ever_written_nothing_surprises():
    memory = stirred(read="causal", chunk_size=10)
    tokens = torch.randn(2, COUNT, WIDTH, dtype=torch.float64)
    assert memory.surprise(tokens).isnan().all()
    torch.testing.assert_close(memory.unwritten(tokens), memory(tokens))


def test_tokens_of_another_width_are_refused():
    with pytest.raises(ValueError, match="the width of this memory"):
        stirred().surprise(torch.randn(1, 3, 5, dtype=torch.float64))
