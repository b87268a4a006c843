"""Models in inference alone: moved to their device and fused."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from convneur.models.backbone import fuse_layers


def prepare_for_inference(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a model to a device, in place, and make another of it that computes with the same weights.

    The other is in eval mode and, on a CPU, its ConvNeur blocks are fused, which makes it faster: weights that change
    afterwards are not followed. Other layers stay as they are: some of timm's models that can be reparameterized fail,
    or change, once their norms were frozen.

    Args:
        model: It stays as it is, and can be trained.
        device: Where it is to run.

    Returns:
        The other model, whose outputs are the same but for rounding.
    """
    other = _with_own_modules(model.to(device), {}).eval()
    if device.type == "cpu":
        fuse_layers(other)
    return other


def shallow_copy(module: nn.Module) -> Any:
    """Another module with the same weights, hooks and children: attributes and children that are set are its own."""
    other = copy.copy(module)
    other._modules = dict(module._modules)
    return other


def _with_own_modules(module: nn.Module, made: dict[nn.Module, nn.Module]) -> nn.Module:
    """A shallow copy all the way down; what is in several places stays one module."""
    if module not in made:
        other = made[module] = shallow_copy(module)
        for name, child in module._modules.items():  # `named_children` leaves out what it has given before
            other._modules[name] = None if child is None else _with_own_modules(child, made)
    return made[module]
