"""Time of several models, side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def times_in_turn(
    steps: Mapping[str, Callable[[], object]], device: torch.device, rounds: int = 9
) -> dict[str, list[float]]:
    """Seconds of each step, round by round, taken in turn (A B A B) so that noise meets all alike.

    A turn is two runs, of which the second counts. What the step before has left in the caches and of the heap would
    otherwise be charged to this one: a small model after a large one had up to 1,500 page faults at each run, and none
    after itself. See also `convneur.bench.freed_memory_kept`.

    Args:
        steps: By name.
        device: What they run on, to be waited for.
        rounds: Turns of each.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            step()
            _wait(device)
            start = time.perf_counter()
            step()
            _wait(device)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def seconds_in_turn(
    steps: Mapping[str, Callable[[], object]], device: torch.device, rounds: int = 9
) -> dict[str, float]:
    """Median seconds of each step; see `times_in_turn`."""
    return {name: statistics.median(times) for name, times in times_in_turn(steps, device, rounds).items()}


def spread(values: list[float]) -> tuple[float, float, float]:
    """Median, first and third quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def training_step(model: nn.Module, images: Tensor) -> Callable[[], None]:
    """Forward, backward and AdamW of a classifier on one batch (B, C, H, W)."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=images.device.type in ("cpu", "cuda"))
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device)

    def step() -> None:
        model.train()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def inference_step(model: nn.Module, images: Tensor) -> Callable[[], None]:
    """Forward on one batch (B, C, H, W)."""

    def step() -> None:
        if model.training:  # walking through all modules takes time, too
            model.eval()
        with torch.inference_mode():
            model(images)

    return step


def throughput(models: Mapping[str, nn.Module], images: Tensor, rounds: int = 9) -> dict[str, float]:
    """Median images per second in inference, the models taking turns (A B A B) so that noise meets all alike.

    Args:
        models: By name; put into eval mode.
        images: One batch (B, C, H, W), on the device of the models.
        rounds: Turns of each.
    """
    steps = {name: inference_step(model, images) for name, model in models.items()}
    return {name: len(images) / seconds for name, seconds in seconds_in_turn(steps, images.device, rounds).items()}


def _wait(device: torch.device) -> None:
    """Let an asynchronous device finish."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
