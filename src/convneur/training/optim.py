"""The schedule of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from convneur_options.optim import OptimConfig


def scheduler(optimizer: Optimizer, steps: int, config: OptimConfig) -> LambdaLR:
    """Rate of each group over a run of so many steps: up in a line over the warm-up, then down as the settings say.

    Groups whose name does not begin with ``head`` wait for ``head_first``.
    """
    wait = round(steps * config.head_first)
    shape = partial(_drops, drops=config.drops) if config.drops else _cosine
    factors = [
        shape(0 if not wait or group.get("name", "").startswith("head") else wait, steps, config.warmup)
        for group in optimizer.param_groups
    ]
    return LambdaLR(optimizer, factors)


def _cosine(wait: int, steps: int, warmup: float) -> Callable[[int], float]:
    rise = _rise(wait, steps, warmup)

    def factor(step: int) -> float:
        step -= wait
        if step < rise:
            return _risen(step, rise)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, steps - wait - rise))))

    return factor


def _drops(wait: int, steps: int, warmup: float, drops: tuple[float, ...]) -> Callable[[int], float]:
    rise = _rise(wait, steps, warmup)

    def factor(step: int) -> float:
        passed = sum(step >= round(drop * steps) for drop in drops)
        return _risen(step - wait, rise) * 0.1**passed

    return factor


def _rise(wait: int, steps: int, warmup: float) -> int:
    """Steps in which the rate grows."""
    return max(1, round((steps - wait) * warmup))


def _risen(step: int, rise: int) -> float:
    """Share of the rate that the warm-up has reached."""
    return min(1.0, (step + 1) / rise) if step >= 0 else 0.0
