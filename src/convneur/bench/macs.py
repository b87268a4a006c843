"""Multiply-accumulates and parameters of a ConvNeur, split into local branch, memory and rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convneur.layers import ConvNeurBlock, GlobalBranch
from convneur.models import ConvNeur


@dataclass(frozen=True)
class Cost:
    """Parameters and multiply-accumulates of one forward pass of one image.

    Attributes:
        params: All parameters.
        params_memory: Those of the global branches.
        macs: All multiply-accumulates in matrix products and convolutions, the memory's inner loop included.
        macs_local: Those of the blocks' local branches.
        macs_memory: Those of the global branches: projections, write, read, and what fuses both branches.
        macs_rest: Stem, downsampling and classifier.
        tokens: Tokens of each stage's memory; 0 where there is none.
    """

    params: int
    params_memory: int
    macs: int
    macs_local: int
    macs_memory: int
    macs_rest: int
    tokens: tuple[int, ...]


def count_cost(build: Callable[[], ConvNeur], image_size: int = 224) -> Cost:
    """Count what really runs, with torch's `FlopCounterMode`, on the meta device: nothing is computed or allocated.

    Args:
        build: Creates the model.
        image_size: Height and width.

    Raises:
        ValueError: If the image is smaller than the model's total stride.
    """
    with torch.device("meta"):
        model = build().eval()
        images = torch.empty(1, model.in_chans, image_size, image_size)
    tokens = [0] * len(model.stages)

    def note(stage: int) -> Callable[[nn.Module, tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]], None]:
        def hook(_module: nn.Module, _inputs: tuple[torch.Tensor, ...], answers: tuple[torch.Tensor, ...]) -> None:
            tokens[stage] = answers[0].shape[-2] * answers[0].shape[-1]

        return hook

    for i, stage in enumerate(model.stages):
        for module in stage.modules():
            if isinstance(module, GlobalBranch):
                module.register_forward_hook(note(i))
    with FlopCounterMode(display=False) as counter:
        model(images)
    counts = {name.partition(".")[2]: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    named = dict(model.named_modules())
    blocks = sum(n for name, n in counts.items() if isinstance(named.get(name), ConvNeurBlock))
    memory = sum(
        n for name, n in counts.items() if isinstance(named.get(name), GlobalBranch) or name.endswith(".merge")
    )
    total = counter.get_total_flops() // 2
    parameters = dict(model.named_parameters())
    inside = {name for name in parameters if ".global_branch." in name or ".merge." in name}
    return Cost(
        params=sum(p.numel() for p in parameters.values()),
        params_memory=sum(parameters[name].numel() for name in inside),
        macs=total,
        macs_local=blocks - memory,
        macs_memory=memory,
        macs_rest=total - blocks,
        tokens=tuple(tokens),
    )
