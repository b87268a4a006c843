"""Tokens in parts give what all of them at once give, for every kind of memory."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from convneur.memory import MemoryConfig, contexts_in_parts
from tests.memory.builders import stirred_memory

CONFIGS = [
    MemoryConfig(),
    MemoryConfig(heads=1),
    *(
        MemoryConfig(state=state, read=read, anchor=anchor, chunk_size=size, max_step=0.02, reference_length=reference)
        for state, read, anchor, size, reference in product(
            ("linear", "mlp"), ("global", "causal"), ("initial", "previous"), (None, 7, 200), (49, None)
        )
        if size is not None or read == "global"
    ),
]


@pytest.mark.parametrize(
    "config", CONFIGS, ids=lambda c: f"{c.state}-{c.read}-{c.anchor}-{c.chunk_size}-{c.reference_length}"
)
@pytest.mark.parametrize("sizes", [(60,), (1, 6, 7, 8, 38), (13, 47), (53, 7)])
def test_parts_equal_the_whole(config, sizes):
    memory = stirred_memory(8, config)
    tokens = torch.randn(2, sum(sizes), 8, dtype=torch.float64)
    mean = tokens.mean(1, keepdim=True)
    with torch.no_grad():
        whole = memory(tokens - mean)
        parts = torch.cat(list(contexts_in_parts(memory, lambda: tokens.split(sizes, 1), sum(sizes), mean)), 1)
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-10)


def test_parts_of_very_different_weight_are_joined_without_overflow():
    """Logits of the parts are some hundreds apart, more than exp of float32 can hold."""
    memory = stirred_memory(8, MemoryConfig()).float()
    tokens = torch.randn(1, 30, 8)
    with torch.no_grad():
        memory.to_keys.weight.mul_(100)
        parts = torch.cat(list(contexts_in_parts(memory, lambda: tokens.split(10, 1), 30)), 1)
        torch.testing.assert_close(parts, memory(tokens), rtol=1e-4, atol=1e-4)
    assert parts.isfinite().all()


def test_slots_do_not_depend_on_the_order_of_parts():
    memory, tokens = stirred_memory(8, MemoryConfig()), torch.randn(2, 30, 8, dtype=torch.float64)
    with torch.no_grad():
        forth = memory.write(tokens[:, 11:], memory.write(tokens[:, :11]))
        back = memory.write(tokens[:, :11], memory.write(tokens[:, 11:]))
    for one, other in zip(forth, back, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
