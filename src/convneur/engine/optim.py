"""Optimizer settings and the schedule they imply."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with warm-up and cosine.

    Attributes:
        lr: Peak learning rate of the local branches.
        global_lr_scale: That of the global branches over ``lr``.
        weight_decay: Decay of weight matrices.
        betas: AdamW's; a shorter second average (0.95) gets off a plateau sooner.
        warmup: Share of all steps in which the rate grows.
    """

    lr: float = 2e-3
    global_lr_scale: float = 0.1
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: float = 0.05


def cosine_with_warmup(optimizer: Optimizer, steps: int, warmup: float) -> LambdaLR:
    """Rate of each group: up in a line over the share ``warmup`` of all steps, then down to 0 in a half cosine."""
    rise = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, steps - rise))))

    return LambdaLR(optimizer, factor)
