"""Optimizer settings and the schedule they imply."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with warm-up, then a cosine or steps.

    Attributes:
        lr: Peak learning rate of the local branches.
        lr_batch: The rate is meant for steps of this many images and scaled in proportion; 0 to take it as it is.
        global_lr_scale: Rate of the global branches over that of the local ones.
        weight_decay: Decay of weight matrices.
        betas: AdamW's; a shorter second average (0.95) gets off a plateau sooner.
        warmup: Share of all steps in which the rate grows.
        layer_decay: Rate of a layer over that of the next one towards the classifier; 1 for the same everywhere.
        head_first: Share of all steps, at the start, in which only the classifier learns.
        clip_grad: Largest norm of the gradient; 0 for no limit.
        drops: Shares of all steps at which the rate falls to a tenth, instead of the cosine; detection's schedules do.
    """

    lr: float = 2e-3
    lr_batch: int = 0
    global_lr_scale: float = 0.1
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: float = 0.05
    layer_decay: float = 1.0
    head_first: float = 0.0
    clip_grad: float = 0.0
    drops: tuple[float, ...] = ()

    def rate(self, images_per_step: int) -> float:
        """Peak rate for steps of so many images, over all processes."""
        return self.lr * images_per_step / self.lr_batch if self.lr_batch else self.lr


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
