"""How detectors learn: groups of their parameters, and in which precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from convneur.tasks.backbone_utils import body_and_head_groups


@contextmanager
def boxes_in_full_precision(detector: nn.Module, device: torch.device) -> Iterator[None]:
    """Where precision is mixed, mix it in the pyramid only.

    torchvision makes anchors, proposals and targets in the type of the maps and of what the heads say; in bfloat16 the
    coordinates of a box would be multiples of 8 px from 1024 px on.
    """
    pyramid: Any = detector.get_submodule("backbone")
    if not torch.is_autocast_enabled(device.type):
        yield
        return
    pyramid.mixed = torch.get_autocast_dtype(device.type)
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        pyramid.mixed = None


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float = 0.05, global_lr_scale: float = 0.1, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Groups for an optimizer: those of the backbone of a detector, and of what stands on it.

    The arguments and what comes back are those of `convneur.tasks.backbone_utils.body_and_head_groups`.
    """
    pyramid: Any = model.get_submodule("backbone")
    return body_and_head_groups(model, pyramid.body, lr, weight_decay, global_lr_scale, layer_decay)
