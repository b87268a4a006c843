"""The middle of a global branch for inference alone: from tokens to answers, with all gains folded into products.

Shape letters: B batch, N tokens, D memory width, C channels of the map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convneur.memory import FoldedMemory, NeuralMemory, RMSNorm, inverse_length


class FoldedAnswers(nn.Module):
    """What a global branch answers to its tokens, in half the operations: memory, projection, norms, projections.

    The norms of context and token are one, on both side by side; their gains, the sum of the two and both projections
    back to channels are one product,

        [gate | shift] = [rms(context) | rms(token)] [[g U, h U], [g S, 0]]'.

    Buffers only, none of them in the state dict.

    Args:
        memory: One that `FoldedMemory.foldable` allows.
        proj: (D, D), weight of the map of what was read.
        norm: Of the context.
        carry_norm: Of the token; None if the gate does not see it.
        up: D -> C, the gate's.
        up_shift: D -> C, the shift's; None if there is none.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        memory: NeuralMemory,
        proj: Tensor,
        norm: RMSNorm,
        carry_norm: RMSNorm | None,
        up: nn.Linear,
        up_shift: nn.Linear | None,
    ) -> None:
        super().__init__()
        self.memory = FoldedMemory(memory, proj)
        self.carries = carry_norm is not None
        ups = [up] if up_shift is None else [up, up_shift]
        with torch.no_grad():
            root = norm.weight.numel() ** 0.5  # the norm leaves it out
            rows = [each.weight * norm.weight * root for each in ups]
            if carry_norm is not None:
                carried = up.weight * carry_norm.weight * root
                rows = [
                    torch.cat([row, carried if index == 0 else torch.zeros_like(row)], 1)
                    for index, row in enumerate(rows)
                ]
            self.register_buffer("weight", torch.cat(rows), persistent=False)
            self.register_buffer("bias", torch.cat([each.bias for each in ups]), persistent=False)

    def forward(self, written: Tensor, tokens: Tensor) -> Tensor:
        """Tokens to write and as they are, (B, N, D) each -> the gate's answer and the shift's, (B, N, C or 2C)."""
        context = self.memory(written)
        if self.carries:
            context = torch.cat([context, tokens], -1).unflatten(-1, (2, -1))
        unit = context * inverse_length(context, RMSNorm.EPS * context.shape[-1])
        return F.linear(unit.flatten(2) if self.carries else unit, self.weight, self.bias)
