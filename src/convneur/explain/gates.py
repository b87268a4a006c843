"""What the global branch says about an image: the gate of each stage as a map."""

from __future__ import annotations

import torch
from torch import Tensor

from convneur.layers import GlobalBranch
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
    branches = [next((m for m in stage.modules() if isinstance(m, GlobalBranch)), None) for stage in model.stages]
    if not model.has_gates or None in branches:
        raise ValueError("the model has no gates; create it with fusion='gate' and a global branch in each stage")
    gates: list[Tensor] = []
    hooks = [
        branch.register_forward_hook(lambda _module, _inputs, answers: gates.append(answers[0].sigmoid()))
        for branch in branches
        if branch is not None
    ]
    training = model.training
    try:
        with torch.inference_mode():
            model.eval()(images)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return gates
