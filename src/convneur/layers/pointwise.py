"""The pointwise half of a block: two linear maps of each pixel and a GELU between them."""

from __future__ import annotations

import torch
from timm.models import register_notrace_module
from torch import Tensor, nn

from convneur.memory import Linear, all_watched, watched

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

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.fc2(self.hidden(x))

    def hidden(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., 4C): all but the last map."""
        fc1, act = self.fc1, self.act
        if (
            type(fc1) is Linear
            and type(act) is nn.GELU
            and not (torch.is_grad_enabled() or watched(fc1) or watched(act) or all_watched())
        ):
            return fc1.then_gelu(x, act.approximate)
        return act(fc1(x))

    def is_plain(self) -> bool:
        """Whether its parts are of the kinds that it began with."""
        act = self.act
        return type(self.fc1) is type(self.fc2) is Linear and type(act) is nn.GELU and act.approximate == "none"
