"""Which device computes, and whether what it computed is a number."""

from __future__ import annotations

import torch
from torch import Tensor


def device_for(accelerator: str = "auto") -> torch.device:
    """The device to evaluate and predict on, as Lightning takes it: ``gpu`` may be a Mac's, too."""
    if accelerator in ("auto", "gpu"):
        there = {
            "cuda": torch.cuda.is_available(),
            "mps": torch.backends.mps.is_available(),
            "cpu": accelerator == "auto",
        }
        accelerator = next((name for name, found in there.items() if found), "cuda")
    return torch.device(accelerator)


def require_finite(scores: Tensor) -> None:
    """Refuse what a model that has diverged answers.

    Raises:
        ValueError: If some of it is infinite or no number.
    """
    if not scores.isfinite().all():
        raise ValueError(
            "the model answers with what is no finite number: its training diverged; train with a lower --optim.lr"
        )
