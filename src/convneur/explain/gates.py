"""What the global branch says about an image: the gate of each stage as a map."""

from __future__ import annotations

import torch
from torch import Tensor

from convneur.explain.looking import evaluated, gated_branches, hooked
from convneur.models import ConvNeur


def gate_maps(model: ConvNeur, images: Tensor) -> list[Tensor]:
    """Gates of the first global branch of each stage, in [0, 1]; the model is left as it was.

    Args:
        model: With a gated global branch.
        images: (B, C, H, W), as the model takes them.

    Returns:
        Per stage (B, C_stage, h, w) on the token grid.

    Raises:
        ValueError: If the model has no gates: it is local-only, or fuses by addition or concatenation.
    """
    gates: list[Tensor] = []

    def note(_branch: object, _inputs: object, answers: tuple[Tensor, Tensor | None]) -> None:
        gates.append(answers[0].sigmoid())

    with evaluated(model), torch.inference_mode(), hooked((branch, note) for branch in gated_branches(model)):
        model(images)
    return gates
