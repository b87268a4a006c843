"""The pointwise half of a block: two linear layers over the channels of each pixel and a GELU between them."""

from __future__ import annotations

from torch import Tensor, nn

from convneur import ops
from convneur.layers.guards import classes_of, is_exporting, untouched

PLAIN = (Tensor, nn.Parameter)


class PointwiseMlp(nn.Module):
    """C -> 4C -> GELU -> C; modules and parameters are named as in timm's Mlp.

    Args:
        dim: C.
        expansion: Hidden channels over C.
    """

    def __init__(self, dim: int, expansion: int = 4) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, expansion * dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(expansion * dim, dim)
        self.built = classes_of(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        fc1, fc2 = self.fc1, self.fc2
        if (
            untouched(self, self.built)
            and self.act.approximate == "none"
            # Quantised weights may know what a linear layer is, and not the convolution that is the reference here.
            and ((type(fc1.weight) in PLAIN and type(fc2.weight) in PLAIN) or is_exporting())
        ):
            return ops.linear(ops.linear(x, fc1.weight, fc1.bias, True), fc2.weight, fc2.bias, False)
        return fc2(self.act(fc1(x)))
