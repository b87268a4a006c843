"""Latency of models side by side: medians, spread, and each ConvNeur over its baseline."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib import import_module
from typing import Any, Literal

import timm
import torch
from timm.utils import reparameterize_model
from torch import Tensor, nn

from convneur.bench.memory import peak_bytes
from convneur.bench.roofline import Rates, dense_work
from convneur.bench.throughput import inference_step, spread, times_in_turn, training_step
from convneur.models import VARIANTS
from convneur.models.registry_utils import choose
from convneur.printing import csv_text

DtypeName = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Written behind the name of a variant: "convneur_m1/mlp".
FORMS: dict[str, dict[str, Any]] = {
    "linear": {"preset": "linear"},
    "mlp": {"memory": {"state": "mlp"}},
    "published": {"preset": "published"},
    "attention": {"token_mixer": "attention"},
    "titans": {"preset": "published", "token_mixer": "titans"},
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
        fused: As timm's `reparameterize_model` makes them, for inference only: local branches of ours get prepacked
            weights (`fuse()`), and parallel branches of FastViT, RepViT and the like become one.
    """

    size: int = 224
    batch: int = 1
    dtype: DtypeName = "fp32"
    compile: bool = False
    training: bool = False
    channels_last: bool = False
    fused: bool = False


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
        over_baseline: Median over the rounds of its time over that of the baseline in the same round; None without
            one.
        over_baseline_low: First quartile.
        over_baseline_high: Third quartile.
        roofline: Seconds that its convolutions and products would take at the measured rates; of inference only.
        peak_bytes: The most that a step holds above weights, images and optimizer; see `convneur.bench.memory`.
        peak_over_baseline: Over that of the baseline.
    """

    model: str
    size: int
    batch: int
    seconds: float
    seconds_low: float
    seconds_high: float
    images_per_second: float
    over_baseline: float | None = None
    over_baseline_low: float | None = None
    over_baseline_high: float | None = None
    roofline: float | None = None
    peak_bytes: int | None = None
    peak_over_baseline: float | None = None


def build(name: str) -> nn.Module:
    """A timm model without weights; ``convneur_m1/mlp`` and the like name a form of ours.

    Raises:
        ValueError: For a name that is not known.
    """
    base, _, form = name.partition("/")
    if base not in VARIANTS:
        return timm.create_model(choose(name, timm.list_models(), "model"))
    if form == "titans":
        with torch.device("cpu"), suppress(ImportError):  # it cannot be imported on the meta device
            import_module("titans_pytorch")
    return timm.create_model(base, **(FORMS[choose(form, FORMS, "form of a model")] if form else {}))


def baseline_of(name: str) -> str | None:
    """The model that is the same without a global branch."""
    variant = VARIANTS.get(name.partition("/")[0])
    return variant.baseline if variant is not None else None


def prepare(name: str, setting: Setting, device: torch.device) -> tuple[nn.Module, Tensor]:
    """A model and a batch of noise, as a setting wants them.

    Raises:
        ValueError: For a name that is not known, and for training a fused model.
    """
    if setting.fused and setting.training:
        raise ValueError("a fused model cannot be trained; leave one of the two out")
    dtype = DTYPES[setting.dtype]
    layout = torch.channels_last if setting.channels_last else torch.contiguous_format
    model = _built(name, setting.fused).to(device=device, dtype=dtype).to(memory_format=layout)
    if setting.compile:
        _compile(model)
    return model, torch.randn(_shape(setting), device=device, dtype=dtype).contiguous(memory_format=layout)


def measure(
    names: Sequence[str],
    setting: Setting,
    device: torch.device,
    rates: Rates | None = None,
    rounds: int = 15,
    not_run: MutableMapping[str, str] | None = None,
) -> list[Latency]:
    """Run the models in turn (A B A B) and say what each took.

    Args:
        names: See `build`.
        setting: How to run them.
        device: Where.
        rates: Of the machine, for the roofline bound; None for none.
        rounds: Turns of each model, after a run to compile.
        not_run: Where to write, by name, why a model's first run failed, and go on without it. None to raise instead.

    Raises:
        ValueError: For a name that is not known.
    """
    return measure_each(dict.fromkeys(names, setting), device, rates, rounds, not_run)


def measure_each(
    settings: Mapping[str, Setting],
    device: torch.device,
    rates: Rates | None = None,
    rounds: int = 15,
    not_run: MutableMapping[str, str] | None = None,
) -> list[Latency]:
    """`measure` of models that are not all run alike: a setting for each name."""
    if any(setting.compile for setting in settings.values()):
        torch.compiler.reset()  # torch gives up on a function that it has compiled too often
    steps: dict[str, Callable[[], object]] = {}
    for name, setting in settings.items():
        step = (training_step if setting.training else inference_step)(*prepare(name, setting, device))
        try:
            step()  # compiles
        except Exception as error:  # whatever a model, its memory or a compiler raises
            if not_run is None:
                raise
            not_run[name] = reason_of(error)
            if device.type == "cuda":
                torch.cuda.empty_cache()  # it may have taken all there was
            continue
        steps[name] = step
    times = times_in_turn(steps, device, rounds)
    peaks = {name: peak_bytes(step, device) for name, step in steps.items()}
    found = []
    for name, seconds in times.items():
        setting = settings[name]
        median, low, high = spread(seconds)
        row = Latency(name, setting.size, setting.batch, median, low, high, setting.batch / median)
        row = replace(row, peak_bytes=peaks[name])
        baseline = baseline_of(name)
        if baseline in times:
            over, low, high = spread([a / b for a, b in zip(seconds, times[baseline], strict=True)])
            row = replace(row, over_baseline=over, over_baseline_low=low, over_baseline_high=high)
            row = replace(row, peak_over_baseline=_ratio(peaks[name], peaks[baseline]))
        if rates is not None and not setting.training:
            work = dense_work(partial(_built, name, setting.fused), _shape(setting), DTYPES[setting.dtype])
            row = replace(row, roofline=rates.seconds(work))
        found.append(row)
    return found


def exponents(found: Sequence[Latency], of: Literal["seconds", "peak_bytes"] = "seconds") -> dict[str, float]:
    """Per model the power of the number of pixels with which its time or peak memory grows.

    It is the slope of a line through the logarithms; 1 is linear.
    """
    slopes = {}
    for name in dict.fromkeys(row.model for row in found):
        values = [(row.size, getattr(row, of)) for row in found if row.model == name]
        points = [(2 * math.log(size), math.log(value)) for size, value in values if value]
        if len({x for x, _ in points}) > 1:
            mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
            slopes[name] = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum(
                (x - mean_x) ** 2 for x, _ in points
            )
    return slopes


def as_csv(found: Sequence[Latency]) -> str:
    """A line per measurement, under the names of the attributes of `Latency`."""
    names = [field.name for field in fields(Latency)]
    return csv_text([names, *([getattr(row, name) for name in names] for row in found)])


def reason_of(error: Exception) -> str:
    """What went wrong, in one line that is not too long."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 240, placeholder=" ...")


def _built(name: str, fused: bool) -> nn.Module:
    model = build(name)
    return reparameterize_model(model.eval(), inplace=True) if fused else model


def _compile(model: nn.Module) -> None:
    """Let torch.compile see the forward pass as a function of this model alone, so that none counts as another's."""
    inner = model.forward

    def forward(images: Tensor) -> Tensor:
        return inner(images)

    forward.__code__ = forward.__code__.replace(co_name=f"forward_{id(model)}")
    model.forward = torch.compile(forward, dynamic=False)


def _shape(setting: Setting) -> tuple[int, int, int, int]:
    return setting.batch, 3, setting.size, setting.size


def _ratio(value: int | None, other: int | None) -> float | None:
    return value / other if value is not None and other else None
