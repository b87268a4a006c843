"""Optimizer settings."""

from __future__ import annotations

from dataclasses import dataclass


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
