"""Models in inference alone: moved to their device and fused."""

from __future__ import annotations

import torch
from torch import nn

from convneur.models.backbone import fuse_layers


def prepare_for_inference(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a model to a device, in place; on a CPU, fuse its ConvNeur blocks, which makes it faster.

    Outputs change by rounding alone. Other layers stay as they are: some of timm's models that can be reparameterized
    fail, or change, once their norms were frozen.

    Args:
        model: In eval mode. A model that was fused cannot be trained afterwards.
        device: Where it is to run.

    Returns:
        The same model.

    Raises:
        ValueError: On a CPU, if a ConvNeur in it is in training mode.
    """
    model = model.to(device)
    if device.type == "cpu":
        fuse_layers(model)
    return model
