"""A model made ready to answer, and not to learn any more."""

from __future__ import annotations

import torch
from torch import nn

from convneur.models.backbone import fuse_layers


def ready_on(device: torch.device, model: nn.Module) -> nn.Module:
    """Move a model to where it is to answer; on a CPU, fuse what is ours of it, which makes it faster.

    Answers change by rounding alone. In place. Models of timm stay as they are: some of those that can be folded fail,
    or change, once their norms were frozen.

    Args:
        device: Where.
        model: In eval mode. What is fused cannot be trained afterwards.
    """
    model = model.to(device)
    if device.type == "cpu":
        fuse_layers(model)
    return model
