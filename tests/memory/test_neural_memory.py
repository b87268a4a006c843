"""What the memory promises beyond equality with the oracle."""

import itertools

import pytest
import torch

from convneur.memory import MemoryConfig, MemoryState, NeuralMemory, RMSNorm

MODES = list(itertools.product(("linear", "mlp"), ("global", "causal"), ("initial", "previous")))
CAUSAL = [mode for mode in MODES if mode[1] == "causal"]


def make(state="linear", read="global", anchor="initial", chunk_size=None, width=16, **knobs) -> NeuralMemory:
    if (state, anchor) == ("mlp", "previous"):
        knobs["max_step"] = 0.02  # longer steps are refused
    memory = NeuralMemory(width, MemoryConfig(state, read, anchor, chunk_size=chunk_size, **knobs))
    with torch.no_grad():
        for parameter in memory.fast.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return memory


@pytest.mark.parametrize("split", [1, 5, 9, 10, 11, 19, 20, 21, 37, 39])
@pytest.mark.parametrize(("state", "read", "anchor"), CAUSAL)
def test_carrying_the_state_over_a_split_equals_one_pass(state, read, anchor, split):
    memory = make(state, read, anchor, chunk_size=10, max_step=0.1).double()
    tokens = torch.randn(2, 40, 16, dtype=torch.float64)
    whole, last = memory(tokens, return_state=True)
    first, carried = memory(tokens[:, :split], return_state=True)
    second, resumed = memory(tokens[:, split:], carried, return_state=True)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(resumed, last, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("state", "read", "anchor"), CAUSAL)
def test_token_by_token_equals_one_pass(state, read, anchor):
    memory = make(state, read, anchor, chunk_size=4, max_step=0.1).double()
    tokens = torch.randn(1, 13, 16, dtype=torch.float64)
    carried, rows = None, []
    for token in tokens.split(1, dim=1):
        row, carried = memory(token, carried, return_state=True)
        rows.append(row)
    torch.testing.assert_close(torch.cat(rows, 1), memory(tokens), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("state", ["linear", "mlp"])
def test_a_causal_token_sees_earlier_chunks_only(state):
    memory = make(state, "causal", chunk_size=5)
    tokens = torch.randn(1, 20, 16, requires_grad=True)
    for chunk in range(4):
        (gradient,) = torch.autograd.grad(memory(tokens)[0, 5 * chunk + 1].sum(), tokens)
        seen = gradient[0].abs().sum(-1) > 0
        assert seen.tolist() == [i < 5 * chunk or i == 5 * chunk + 1 for i in range(20)]


@pytest.mark.parametrize("state", ["linear", "mlp"])
def test_a_global_token_sees_every_token(state):
    memory = make(state, chunk_size=5)
    tokens = torch.randn(1, 20, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(memory(tokens)[0, 3].sum(), tokens)
    assert (gradient[0].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("state", ["linear", "mlp"])
def test_one_chunk_read_globally_does_not_depend_on_the_order(state):
    memory = make(state).double()
    tokens, order = torch.randn(2, 30, 16, dtype=torch.float64), torch.randperm(30)
    torch.testing.assert_close(memory(tokens[:, order]), memory(tokens)[:, order])


@pytest.mark.parametrize("state", ["linear", "mlp"])
def test_repeating_the_tokens_changes_nothing(state):
    """The write is normalised to a reference length: twice the tokens, twice the resolution, the same memory."""
    memory = make(state).double()
    tokens = torch.randn(2, 30, 16, dtype=torch.float64)
    torch.testing.assert_close(memory(tokens.repeat(1, 2, 1))[:, :30], memory(tokens))


def test_writing_teaches_the_memory():
    """After a write at a small step the memory predicts the values of the tokens better than before."""
    memory = make("mlp", max_step=0.01, decay=False).double()
    tokens = torch.randn(2, 30, 16, dtype=torch.float64)
    _, after = memory(tokens, return_state=True)
    normed = memory.store_norm(tokens)
    keys, values = memory.to_keys(normed)[:, None], memory.to_values(normed)[:, None]
    losses = [
        (memory.fast.read(weights, keys) - values).square().mean((1, 2, 3))
        for weights in (memory.fast.initial(), after.weights)
    ]
    assert (losses[1] < losses[0]).all()


@pytest.mark.parametrize(("state", "read", "anchor"), MODES)
def test_nan_stays_in_its_sample(state, read, anchor):
    memory = make(state, read, anchor, chunk_size=5)
    tokens = torch.randn(3, 12, 16)
    clean = memory(tokens)
    tokens[1, 0] = float("nan")
    context = memory(tokens)
    assert context[1].isnan().any()
    torch.testing.assert_close(context[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize(("state", "read", "anchor"), MODES)
def test_same_output_whatever_autograd_does(state, read, anchor):
    memory = make(state, read, anchor, chunk_size=5)
    tokens = torch.randn(2, 12, 16)
    expected = memory(tokens).detach()
    with torch.no_grad():
        found = memory(tokens)
    assert torch.equal(found, expected)
    with torch.inference_mode():
        assert torch.equal(memory(tokens), found)


def test_causal_read_never_writes_its_last_chunk(monkeypatch):
    """One chunk: nothing is written, so keys, values and rates are not even computed."""
    memory = make("mlp", "causal", chunk_size=10)
    monkeypatch.setattr(memory, "_writes", lambda *_: pytest.fail("the only chunk was written"))
    assert memory(torch.randn(2, 10, 16)).shape == (2, 10, 16)


def test_momentum_generator_has_a_gradient_even_when_idle():
    memory = make()
    memory(torch.randn(1, 9, 16)).sum().backward()
    assert all(p.grad is not None for p in memory.parameters())


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"state": "cnn"}, "state='cnn' is not known"),
        ({"read": "both"}, "read='both' is not known"),
        ({"anchor": "last"}, "anchor='last' is not known"),
        ({"heads": 0}, "heads=0 is out of range"),
        ({"chunk_size": 2.5}, "chunk_size=2.5 is out of range"),
        ({"reference_length": -1}, "reference_length=-1 is out of range"),
        ({"max_step": 0.0}, "max_step=0.0 is out of range"),
        ({"max_step": float("nan")}, "max_step=nan is out of range"),
        ({"state": "linear", "read": "causal"}, "would never write"),
        (
            {"read": "causal"},
            r"state='slots' has no option read; leave it out, or use state='linear' \(preset='linear'\)",
        ),
        ({"momentum": False}, "state='slots' has no option momentum"),
        (
            {"state": "mlp", "anchor": "previous", "chunk_size": 49},
            r"grows without bound at max_step=1: .* use max_step=0.02 at most, or anchor='initial'",
        ),
        (
            {"state": "mlp", "anchor": "previous", "chunk_size": 400, "reference_length": None, "max_step": 0.02},
            r"grows without bound at max_step=0.02: .* use max_step=0.01 at most",
        ),
    ],
)
def test_bad_config_is_one_clear_line(knobs, message):
    with pytest.raises(ValueError, match=message) as caught:
        MemoryConfig(**knobs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", ["global", "causal"])
@pytest.mark.parametrize("alike", [False, True])
def test_the_longest_steps_that_are_allowed_stay_bounded(read, alike):
    """As many tokens as an image of 1333 px has on a grid of stride 16."""
    config = MemoryConfig("mlp", read, "previous", chunk_size=49, max_step=0.02)
    memory = NeuralMemory(80, config)
    tokens = torch.randn(1, 7000, 80)
    with torch.no_grad():
        found = memory(0.3 * tokens + torch.randn(1, 1, 80) if alike else tokens)
    assert found.abs().max() < 50


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_the_norm_is_over_the_root_of_the_mean_square_in_the_precision_of_its_input(eps):
    norm, x = RMSNorm(16), torch.randn(3, 5, 16)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(16))
        x[0, 0] = 0
    norm.eps = eps
    expected = x.double() / (x.double().square().mean(-1, keepdim=True) + eps).sqrt() * norm.weight
    torch.testing.assert_close(norm(x).double(), expected, rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        half = norm(x.bfloat16())
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(half.double(), expected, rtol=0.02, atol=0.02)


def test_bad_input_is_one_clear_line():
    memory = make(width=16)
    _, state = memory(torch.randn(2, 9, 16), return_state=True)
    other = NeuralMemory(8).initial_state(2)
    calls = [
        (lambda: NeuralMemory(10), "width=10 does not split into 4 heads"),
        (lambda: NeuralMemory(8, MemoryConfig()), "state='slots' is no memory of fast weights; use SlotMemory"),
        (lambda: memory(torch.randn(9, 16)), r"\(9, 16\) do not fit"),
        (lambda: memory(torch.randn(2, 9, 8)), r"give \(batch, tokens, 16\)"),
        (lambda: memory(torch.randn(2, 0, 16)), "no tokens"),
        (lambda: memory(torch.randn(3, 9, 16), state), "batch of 2 and the tokens of 3"),
        (lambda: memory(torch.randn(2, 9, 16), other), "another memory"),
        (lambda: memory(torch.randn(2, 9, 16), MemoryState(state.weights[:0], (), state.pending)), "another memory"),
    ]
    for call, message in calls:
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
