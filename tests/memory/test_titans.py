"""The published memory against the public implementation of Titans, with copied weights."""

import pytest
import torch

from convneur.memory import MemoryConfig, NeuralMemory

titans_pytorch = pytest.importorskip("titans_pytorch", reason="titans-pytorch is not installed (extra: dev)")


def with_weights_of(theirs, width: int, chunk_size: int) -> NeuralMemory:
    """Our memory with the weights of theirs."""
    ours = NeuralMemory(width, MemoryConfig("mlp", "causal", chunk_size=chunk_size, reference_length=None))
    rates = [theirs.to_adaptive_step[0], theirs.to_momentum[0], theirs.to_decay_factor[0]]
    gain, weight1, weight2 = theirs.memory_model_parameters
    copied = {
        "store_norm.weight": theirs.store_norm.weight,
        "retrieve_norm.weight": theirs.retrieve_norm.weight,
        "to_queries.weight": theirs.to_queries.weight,
        "to_keys.weight": theirs.to_keys.weight,
        "to_values.weight": theirs.to_values.weight,
        "to_rates.weight": torch.cat([rate.weight for rate in rates]),
        "to_rates.bias": torch.cat([rate.bias for rate in rates]),
        "fast.gain": gain[:, None],
        "fast.weight1": weight1,
        "fast.weight2": weight2,
    }
    ours.double().load_state_dict(copied)
    return ours


@pytest.mark.parametrize("chunk_size", [7, 16, 50])
@pytest.mark.parametrize("width", [8, 24, 80])
@pytest.mark.parametrize("length", [49, 100])
def test_equals_titans_pytorch(width, chunk_size, length):
    theirs = titans_pytorch.NeuralMemory(width, chunk_size=chunk_size).double()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ours = with_weights_of(theirs, width, chunk_size)
    for norm in (theirs.store_norm, theirs.retrieve_norm):
        norm.eps = ours.store_norm.eps  # theirs is the dtype's epsilon: another one in every precision
    tokens = torch.randn(2, length, width, dtype=torch.float64)
    # Their token i reads the memory of chunk (i + 1) // chunk_size: the last token of a chunk already sees its own
    # chunk written. Ours reads as the paper says, chunk i // chunk_size. So their sequence is shifted by one token
    # (any token may fill the end), and the first token, which has no row before it to be aligned with, is left out.
    shifted = torch.cat([tokens[:, 1:], tokens[:, :1]], 1)
    expected, _ = theirs(shifted, store_seq=tokens)
    torch.testing.assert_close(ours(tokens)[:, 1:], expected[:, :-1], rtol=1e-9, atol=1e-9)
