"""Time of a model beside its baseline without memory, on an image as the model takes it."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from convneur.bench.throughput import inference_step, spread, times_in_turn
from convneur.layers import ConvNeurBlock
from convneur.models import ConvNeur

ROUNDS = 5  # turns of each, of two runs each


def baseline_of(model: nn.Module) -> ConvNeur | None:
    """The same without memory, as ``global_placement="none"`` has it; None where there is nothing to leave out.

    It keeps the other weights, but was not trained to do without the memory: it is good for its time, not for answers.
    """
    if not isinstance(model, ConvNeur) or model.global_config.placement == "none":
        return None
    baseline = copy.deepcopy(model)
    for block in baseline.modules():
        if isinstance(block, ConvNeurBlock):
            block.global_branch = block.merge = None
    baseline.global_config = replace(baseline.global_config, placement="none")
    return baseline


def compare(model: nn.Module, baseline: nn.Module | None, image: Tensor) -> dict[str, Any]:
    """Medians over rounds taken in turn, in milliseconds, and of the ratio in each round; as JSON can hold them.

    Args:
        model: In eval mode.
        baseline: See `baseline_of`.
        image: (1, C, H, W), on the device of both.
    """
    models = {"model": model} | ({"baseline": baseline} if baseline is not None else {})
    steps = {name: inference_step(each, image) for name, each in models.items()}
    times = times_in_turn(steps, image.device, ROUNDS)
    told = {"milliseconds": _milliseconds(times["model"]), "rounds": ROUNDS, "device": image.device.type}
    if baseline is None:
        return told | {"baseline_milliseconds": None, "over_baseline": None, "over_baseline_quartiles": None}
    over, *quartiles = spread([a / b for a, b in zip(times["model"], times["baseline"], strict=True)])
    return told | {
        "baseline_milliseconds": _milliseconds(times["baseline"]),
        "over_baseline": round(over, 3),
        "over_baseline_quartiles": [round(quartile, 3) for quartile in quartiles],
    }


def _milliseconds(seconds: list[float]) -> float:
    return round(1e3 * spread(seconds)[0], 3)
