"""The closed form against the float64 oracle: output, final state, gradients of every parameter and of the input."""

import copy
import itertools

import pytest
import torch

from convneur.memory import MemoryConfig, MemoryState, NeuralMemory, reference

LENGTHS = (1, 63, 100, 196, 1000)
MODES = list(itertools.product(("linear", "mlp"), ("global", "causal"), ("initial", "previous")))
CHUNKS = {1: 1, 63: 20, 100: 49, 196: 64, 1000: 196}


def make_memory(state="linear", read="global", anchor="initial", chunk_size=None, width=8, **knobs) -> NeuralMemory:
    """A float64 memory whose every parameter is away from its special value."""
    knobs.setdefault("heads", 2)
    if (state, anchor) == ("mlp", "previous"):
        knobs["max_step"] = 0.02  # longer steps are refused
    memory = NeuralMemory(width, MemoryConfig(state, read, anchor, chunk_size=chunk_size, **knobs)).double()
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return memory


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Norm of the difference over the norm of ``b``, or the largest value of ``a`` where ``b`` is zero."""
    return ((a - b).norm() / b.norm()).item() if b.any() else a.abs().sum().item()


def flat(state: MemoryState) -> list[torch.Tensor]:
    return [*state.weights, *state.momentum, state.pending]


def results(function, tokens: torch.Tensor, parameters, state=None) -> dict[str, torch.Tensor]:
    """Output, final state, and gradients of one scalar that depends on all of both."""
    tokens = tokens.clone().requires_grad_()
    context, last = function(tokens, state, return_state=True)
    pieces = [context, *flat(last)]
    total = sum((p * torch.cos(torch.arange(p.numel(), dtype=torch.float64)).view(p.shape).to(p)).sum() for p in pieces)
    names = [name for name, _ in parameters]
    gradients = torch.autograd.grad(total, [tokens, *(p for _, p in parameters)], allow_unused=True)
    out = {"context": context} | {f"state {i}": p for i, p in enumerate(flat(last))}
    for name, gradient in zip(["tokens", *names], gradients, strict=True):
        out[f"gradient of {name}"] = torch.zeros(1) if gradient is None else gradient
    return out


def assert_close(memory: NeuralMemory, tokens: torch.Tensor, state=None, in_float32: bool = False) -> None:
    """Compare with the oracle in float64, to 1e-9, and on request the same numbers in float32, to 1e-4."""
    single = copy.deepcopy(memory).float()
    memory.load_state_dict(single.state_dict())  # both have the same parameters, rounded to float32
    tokens = tokens.float().double()
    named = list(memory.named_parameters())
    expected = results(lambda *a, **k: reference(memory, *a, **k), tokens, named, state)
    compared = [(results(memory, tokens, named, state), 1e-9)]
    if in_float32:
        compared.append((results(single, tokens.float(), list(single.named_parameters()), state), 1e-4))
    for got, tolerance in compared:
        for name, value in expected.items():
            assert got[name].shape == value.shape or not value.any(), name
            error = relative(got[name].double(), value)
            assert error <= tolerance, f"{name}: relative error {error:.2e} in {got['context'].dtype}"


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("state", "read", "anchor"), MODES)
def test_equals_the_oracle(state, read, anchor, length):
    memory = make_memory(state, read, anchor, chunk_size=CHUNKS[length])
    tokens = torch.randn(1 if length == 1000 else 2, length, 8)
    assert_close(memory, tokens, in_float32=True)


@pytest.mark.parametrize(("state", "read", "anchor"), MODES)
@pytest.mark.parametrize(
    "knobs",
    [{"momentum": False}, {"decay": False}, {"reference_length": None, "max_step": 0.05}, {"heads": 1}, {"heads": 3}],
    ids=str,
)
def test_every_knob_equals_the_oracle(state, read, anchor, knobs):
    memory = make_memory(state, read, anchor, chunk_size=7, width=12, **knobs)
    assert_close(memory, torch.randn(2, 25, 12))


@pytest.mark.parametrize(("state", "read", "anchor"), MODES)
def test_going_on_from_a_state_equals_the_oracle(state, read, anchor):
    memory = make_memory(state, read, anchor, chunk_size=7)
    _, carried = memory(torch.randn(2, 17, 8, dtype=torch.float64), return_state=True)
    carried = MemoryState(*(tuple(w.detach() for w in part) for part in carried[:2]), carried.pending.detach())
    assert_close(memory, torch.randn(2, 30, 8), carried)


@pytest.mark.parametrize("state", ["linear", "mlp"])
def test_whole_image_as_one_chunk_equals_the_oracle(state):
    memory = make_memory(state, "global", chunk_size=None)
    assert_close(memory, torch.randn(2, 50, 8), in_float32=True)
