"""Peak memory of a step, against tensors of known size."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch
import torch.nn.functional as F

from convneur.bench import training_step
from convneur.bench.memory import peak_bytes

CPU = torch.device("cpu")
MEGA = 10**6


def test_the_peak_is_the_most_held_at_once():
    def step() -> None:
        first = torch.empty(4 * MEGA, dtype=torch.uint8)
        second = torch.empty(2 * MEGA, dtype=torch.uint8)
        del first
        third = torch.empty(7 * MEGA, dtype=torch.uint8)
        del second, third
        torch.empty(5 * MEGA, dtype=torch.uint8)

    assert peak_bytes(step, CPU) == 9 * MEGA  # neither the sum, 18, nor the largest, 7


def test_what_was_there_before_does_not_count_even_if_the_step_frees_it():
    before = [torch.zeros(6 * MEGA, dtype=torch.uint8)]

    def step() -> None:
        before.clear()
        torch.empty(MEGA, dtype=torch.uint8)

    assert peak_bytes(step, CPU) == MEGA


def test_what_an_operator_needs_inside_counts():
    """An answer while its input is still held, and a map that is laid out anew."""
    images = torch.randn(1, 8, 100, 100)
    answer = images.numel() * 4
    assert peak_bytes(lambda: F.relu(images), CPU) == answer
    assert peak_bytes(lambda: F.relu(F.relu(images)), CPU) == 2 * answer
    assert peak_bytes(lambda: images.contiguous(memory_format=torch.channels_last), CPU) == answer


def test_memory_that_a_thread_keeps_counts_each_time():
    kept = threading.local()

    def step() -> None:
        if not hasattr(kept, "memory"):
            kept.memory = torch.empty(3 * MEGA, dtype=torch.uint8)
        torch.empty(MEGA, dtype=torch.uint8)

    assert [peak_bytes(step, CPU) for _ in range(2)] == [4 * MEGA] * 2


def test_training_holds_gradients_and_activations_but_not_weights_or_the_optimizer():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 1000, bias=False), torch.nn.ReLU())
    step = training_step(model, torch.randn(5, 3, 8, 8))
    step()  # the optimizer has its state now
    gradient, activation = 4 * 3 * 64 * 1000, 4 * 5 * 1000
    peak = peak_bytes(step, CPU)
    assert gradient < peak < gradient + 8 * activation


def test_an_error_in_the_step_is_raised_and_the_terminal_is_left_clean(capfd):
    def step() -> None:
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        peak_bytes(step, CPU)
    assert peak_bytes(lambda: torch.ones(10), CPU) == 40
    assert capfd.readouterr() == ("", "")


def test_on_cuda_torch_counts(monkeypatch):
    """Without a GPU: a stand-in for torch's counters. What was held before is taken off, and an old peak forgotten."""
    held, peak = [100], [900]

    def step() -> None:
        peak[0] = max(peak[0], held[0] + 30)

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: peak.__setitem__(0, held[0]))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: held[0])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak[0])
    assert peak_bytes(step, torch.device("cuda")) == 30


def test_other_devices_do_not_say():
    assert peak_bytes(lambda: None, torch.device("meta")) is None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the C library is another")
def test_a_heap_that_is_kept_takes_no_new_pages_and_goes_back_afterwards():
    """In a process of its own, whose heap is its own."""
    code = """
import resource, torch
from convneur.bench import freed_memory_kept
from convneur.streaming.budget import resident_bytes
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def during():
    before = faults()
    for _ in range(5): torch.zeros(2**25)
    return faults() - before
fresh = during()
with freed_memory_kept() as kept:
    during()
    print(kept, fresh, during())
    torch.zeros(2**27)
    held = resident_bytes()
print(held - resident_bytes(), during())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept, before, within, given_back, after = done.stdout.split()
    if kept == "True":
        assert int(within) < int(before) / 10
        assert int(given_back) > 2**28
        assert int(after) > int(before) / 10
