"""Latency of models side by side: medians, spread, and each ConvNeur over its local twin."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any, Literal

import timm
import torch
from torch import nn

from convneur.bench.floor import Rates, dense_work
from convneur.bench.throughput import inference_step, spread, times_in_turn, training_step
from convneur.models import VARIANTS
from convneur.models.names import choose

DtypeName = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Written behind the name of a variant: "convneur_m1/mlp".
FORMS: dict[str, dict[str, Any]] = {
    "mlp": {"memory": {"state": "mlp"}},
    "published": {"preset": "published"},
    "titans": {"preset": "published", "globalizer": "titans"},
    "local": {"global_placement": "none"},
}


@dataclass(frozen=True)
class Setting:
    """How models are run.

    Attributes:
        size: Pixels a side.
        batch: Images at a time.
        dtype: Of weights and images.
        compile: Through torch.compile.
        training: Forward, backward and AdamW instead of inference.
        channels_last: Memory format.
    """

    size: int = 224
    batch: int = 1
    dtype: DtypeName = "fp32"
    compile: bool = False
    training: bool = False
    channels_last: bool = False


@dataclass(frozen=True)
class Latency:
    """What one model took.

    Attributes:
        model: Its name.
        size: Pixels a side.
        batch: Images at a time.
        seconds: Median of the rounds.
        seconds_low: First quartile.
        seconds_high: Third quartile.
        images_per_second: At the median.
        over_twin: Median over the rounds of its time over that of the local twin in the same round; None without twin.
        over_twin_low: First quartile.
        over_twin_high: Third quartile.
        floor: Seconds that its convolutions and products would take at the measured rates; of inference only.
    """

    model: str
    size: int
    batch: int
    seconds: float
    seconds_low: float
    seconds_high: float
    images_per_second: float
    over_twin: float | None = None
    over_twin_low: float | None = None
    over_twin_high: float | None = None
    floor: float | None = None


def build(name: str) -> nn.Module:
    """A timm model without weights; ``convneur_m1/mlp`` and the like name a form of ours.

    Raises:
        ValueError: For a name that is not known.
    """
    base, _, form = name.partition("/")
    if base not in VARIANTS:
        return timm.create_model(choose(name, timm.list_models(), "model"))
    return timm.create_model(base, **(FORMS[choose(form, FORMS, "form of a model")] if form else {}))


def twin_of(name: str) -> str | None:
    """The model that is the same without a global branch."""
    variant = VARIANTS.get(name.partition("/")[0])
    return variant.local_twin if variant is not None else None


def measure(
    names: Sequence[str], setting: Setting, device: torch.device, rates: Rates | None = None, rounds: int = 15
) -> list[Latency]:
    """Run the models in turn (A B A B) and say what each took.

    Args:
        names: See `build`.
        setting: How to run them.
        device: Where.
        rates: Of the machine, to tell the floor; None for no floor.
        rounds: Turns of each model, after one to warm up.

    Raises:
        ValueError: For a name that is not known.
    """
    dtype = DTYPES[setting.dtype]
    layout = torch.channels_last if setting.channels_last else torch.contiguous_format
    shape = (setting.batch, 3, setting.size, setting.size)
    images = torch.randn(shape, device=device, dtype=dtype).contiguous(memory_format=layout)
    make = training_step if setting.training else inference_step
    steps = {}
    for name in dict.fromkeys(names):
        model = build(name).to(device=device, dtype=dtype).to(memory_format=layout)
        if setting.compile:
            model.compile()
        steps[name] = make(model, images)
    times = times_in_turn(steps, device, rounds)
    found = []
    for name, seconds in times.items():
        median, low, high = spread(seconds)
        row = Latency(name, setting.size, setting.batch, median, low, high, setting.batch / median)
        twin = twin_of(name)
        if twin in times:
            over, low, high = spread([a / b for a, b in zip(seconds, times[twin], strict=True)])
            row = replace(row, over_twin=over, over_twin_low=low, over_twin_high=high)
        if rates is not None and not setting.training:
            row = replace(row, floor=rates.floor(dense_work(partial(build, name), shape, dtype)))
        found.append(row)
    return found


def exponents(found: Sequence[Latency]) -> dict[str, float]:
    """Per model the power of the number of pixels with which its time grows: slope of a line through the logarithms."""
    slopes = {}
    for name in dict.fromkeys(row.model for row in found):
        points = [(2 * math.log(row.size), math.log(row.seconds)) for row in found if row.model == name]
        if len({x for x, _ in points}) > 1:
            mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
            slopes[name] = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum(
                (x - mean_x) ** 2 for x, _ in points
            )
    return slopes


def as_csv(found: Sequence[Latency]) -> str:
    """A line per measurement, under the names of the attributes of `Latency`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Latency)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in found)
    return text.getvalue()
