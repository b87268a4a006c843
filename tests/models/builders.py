"""Models to test with."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

import convneur
from convneur.models import VARIANTS

SMALL: dict[str, Any] = {"dims": (8, 16, 24), "depths": (1, 1, 1), "memory_width": 16, "num_classes": 7}


def variants(*quick: str) -> list[Any]:
    """All variants; they differ in widths and depths alone, so those that are not ``quick`` are left to -m slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS]


def create(name: str, **kwargs: Any) -> convneur.ConvNeur:
    """A model whose global branch has an effect: its last projection is moved off zero."""
    model = timm.create_model(name, **kwargs)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "global_branch.up" in key:
                parameter.normal_(std=0.05)
            if key.endswith("gamma"):
                parameter.fill_(0.5)
    return model


def stirred(**kwargs: Any) -> convneur.ConvNeur:
    """A small model in eval mode, none of whose weights is what a new one has."""
    torch.manual_seed(0)
    model = create("convneur_m1", **SMALL | kwargs).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model
