"""The pointwise half of a block: two linear maps of each pixel and a GELU between them."""

from __future__ import annotations

from typing import Any

import torch
from timm.models import register_notrace_module
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

from convneur.memory import FixedLinear, Linear, watched

register_notrace_module(Linear)  # FX keeps it whole: it looks at what it is given


class PointwiseMlp(nn.Module):
    """C -> 4C -> GELU -> C; modules and parameters are named as in timm's Mlp.

    In inference the hidden map, four times as large as the map, is activated as it is made (``docs/results/speed.md``).

    Args:
        dim: C.
        expansion: Hidden channels over C.
    """

    def __init__(self, dim: int, expansion: int = 4) -> None:
        super().__init__()
        self.fc1 = Linear(dim, expansion * dim)
        self.act = nn.GELU()
        self.fc2 = Linear(expansion * dim, dim)
        self.merged: FixedLinear | None = None

    def merge(self, scale: Tensor) -> None:
        """Make a map of the second one and a scale (C,) behind it, for inference alone; see `can_add`."""
        fc2 = self.fc2
        scale, weight, bias = scale.detach(), fc2.weight.detach(), fc2.bias.detach()
        with torch.inference_mode(False):  # or they could not be part of a graph afterwards
            self.merged = FixedLinear(scale[:, None] * weight, scale * bias).eval().fuse()

    def can_add(self) -> bool:
        """Whether `forward` may be given ``onto``: this is inference, merged, and nobody waits for what is merged."""
        return (
            self.merged is not None
            and not torch.is_grad_enabled()
            and type(self.fc2) is Linear
            and not (watched(self) or watched(self.fc2))
        )

    def forward(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """(..., C) -> (..., C); with ``onto`` (..., C), that and what was merged."""
        fc1, act = self.fc1, self.act
        if type(act) is nn.GELU and not (torch.is_grad_enabled() or _watched(fc1, act)):
            hidden = fc1.then_gelu(x, act.approximate)
        else:
            hidden = act(fc1(x))
        if onto is None:
            return self.fc2(hidden)
        assert self.merged is not None
        return self.merged(hidden, onto)


def _watched(fc1: Any, act: nn.Module) -> bool:
    """Whether somebody waits for the calls of either, through a hook or as what was put in its place."""
    return bool(
        type(fc1) is not Linear
        or fc1._forward_hooks
        or fc1._forward_pre_hooks
        or act._forward_hooks
        or act._forward_pre_hooks
        or _global_forward_hooks
        or _global_forward_pre_hooks
    )
