"""Images per second of several models, side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def throughput(models: Mapping[str, nn.Module], images: Tensor, rounds: int = 9) -> dict[str, float]:
    """Median images per second in inference, the models taking turns (A B A B) so that noise meets all alike.

    Args:
        models: By name; put into eval mode.
        images: One batch (B, C, H, W), on the device of the models.
        rounds: Turns of each, after one to warm up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for turn in range(rounds + 1):
            for name, model in models.items():
                model.eval()
                _wait(images)
                start = time.perf_counter()
                model(images)
                _wait(images)
                if turn:
                    seconds[name].append(time.perf_counter() - start)
    return {name: len(images) / statistics.median(times) for name, times in seconds.items()}


def _wait(x: Tensor) -> None:
    """Let an asynchronous device finish."""
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
    elif x.device.type == "mps":
        torch.mps.synchronize()
