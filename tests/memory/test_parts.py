"""Tokens in parts give what all of them at once give, for every kind of memory."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from convneur.memory import MemoryConfig, NeuralMemory, contexts_in_parts

CONFIGS = [
    MemoryConfig(state=state, read=read, anchor=anchor, chunk_size=size, max_step=0.02, reference_length=reference)
    for state, read, anchor, size, reference in product(
        ("linear", "mlp"), ("global", "causal"), ("initial", "previous"), (None, 7, 200), (49, None)
    )
    if size is not None or read == "global"
]


@pytest.mark.parametrize(
    "config", CONFIGS, ids=lambda c: f"{c.state}-{c.read}-{c.anchor}-{c.chunk_size}-{c.reference_length}"
)
@pytest.mark.parametrize("sizes", [(60,), (1, 6, 7, 8, 38), (13, 47), (53, 7)])
def test_parts_equal_the_whole(config, sizes):
    torch.manual_seed(0)
    memory = NeuralMemory(8, config).double()
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    tokens = torch.randn(2, sum(sizes), 8, dtype=torch.float64)
    mean = tokens.mean(1, keepdim=True)
    with torch.no_grad():
        whole = memory(tokens - mean)
        parts = torch.cat(list(contexts_in_parts(memory, lambda: tokens.split(sizes, 1), sum(sizes), mean)), 1)
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-10)
