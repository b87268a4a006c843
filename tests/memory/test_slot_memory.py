"""What slots promise beyond equality with the oracle."""

from __future__ import annotations

import pytest
import torch

from convneur.memory import MemoryConfig, NeuralMemory, SlotMemory, make_memory
from convneur.ops.memory import Slots
from tests.memory.builders import stir


def make(width: int = 16) -> SlotMemory:
    return stir(SlotMemory(width).double())


def tokens(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_they_are_the_default():
    assert type(make_memory(16)) is SlotMemory


def test_every_token_sees_every_token():
    memory, given = make(), tokens(1, 20, 16).requires_grad_()
    (gradient,) = torch.autograd.grad(memory(given)[0, 3].sum(), given)
    assert (gradient[0].abs().sum(-1) > 0).all()


def test_the_order_of_the_tokens_changes_nothing():
    memory, given, order = make(), tokens(2, 30, 16), torch.randperm(30)
    torch.testing.assert_close(memory(given[:, order]), memory(given)[:, order])


def test_repeating_the_tokens_changes_nothing():
    memory, given = make(), tokens(2, 30, 16)
    torch.testing.assert_close(memory(given.repeat(1, 2, 1))[:, :30], memory(given))


def test_going_on_from_a_state_equals_writing_all_at_once():
    memory, given = make(), tokens(2, 30, 16)
    _, first = memory(given[:, :11], None, True)
    second, carried = memory(given[:, 11:], first, True)
    whole, last = memory(given, None, True)
    torch.testing.assert_close(second, whole[:, 11:])
    torch.testing.assert_close(carried, last)
    torch.testing.assert_close(memory(given[:, 11:], first), second)


def test_nan_stays_in_its_sample():
    memory, given = make(), tokens(3, 12, 16)
    clean = memory(given)
    given[1, 0] = float("nan")
    context = memory(given)
    assert context[1].isnan().all()
    torch.testing.assert_close(context[[0, 2]], clean[[0, 2]])


def test_every_parameter_has_a_gradient():
    memory = SlotMemory(16)
    memory(torch.randn(1, 9, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for name, p in memory.named_parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_the_range(dtype):
    """Logits of some hundreds: exp of them is out of the range of half precision."""
    memory, given = make().float(), torch.randn(2, 30, 16)
    with torch.no_grad():
        memory.to_keys.weight.mul_(50)
        with torch.autocast("cpu", dtype):
            context, state = memory(given, None, True)
    assert context.isfinite().all()
    assert state.mass.isfinite().all()


def test_bad_input_is_one_clear_line():
    memory, given = make(), tokens(2, 9, 16)
    _, state = memory(given, None, True)
    foreign = NeuralMemory(16).initial_state(2)
    calls = [
        (lambda: SlotMemory(10), "width=10 does not split into 4 heads"),
        (lambda: SlotMemory(8, MemoryConfig("linear")), "state='linear' is a memory of fast weights; use NeuralMemory"),
        (lambda: memory.write(given[:, :0]), "no tokens"),
        (lambda: memory(given[0]), r"\(9, 16\) do not fit"),
        (lambda: memory(tokens(2, 9, 8)), r"give \(batch, tokens, 16\)"),
        (lambda: memory(given[:, :0]), "no tokens"),
        (lambda: memory(tokens(3, 9, 16), state), "of another memory or batch"),
        (lambda: memory(given, Slots(state.memory[..., :2], state.mass)), "of another memory or batch"),
        (lambda: memory(given, foreign), "of another memory or batch"),
    ]
    for call, message in calls:
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_one_token_reads_what_it_wrote():
    memory, given = make(), tokens(2, 1, 16)
    _, values, steps = memory.inputs(given)
    torch.testing.assert_close(memory(given), (steps * values).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_carried_on_stays_a_mean(dtype):
    """The same tokens again and again: shares that are rounded apart would let the mean grow."""
    memory, given = make().to(dtype), torch.randn(1, 20, 16).to(dtype)
    with torch.no_grad():
        first, state = memory(given, None, True)
        for _ in range(300):
            context, state = memory(given, state, True)
    torch.testing.assert_close(context, first, rtol=0.02, atol=0.02)
