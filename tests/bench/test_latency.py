"""Timing side by side, and the floor below it."""

from __future__ import annotations

import csv
import io

import pytest
import torch
from torch import nn

from convneur.bench import latency
from convneur.bench.floor import Rates, dense_work, measured_rates
from convneur.bench.throughput import spread
from convneur.models import ConvNeur

CPU = torch.device("cpu")


def test_each_model_is_timed_and_ours_is_set_beside_its_twin():
    names = ["convneur_m1", "convnext_atto", "convneur_m1/local", "resnet10t"]
    found = latency.measure(names, latency.Setting(size=32, batch=2), CPU, Rates(1e15, 1e15), rounds=3)
    assert [row.model for row in found] == names
    for row in found:
        assert 0 < row.seconds_low <= row.seconds <= row.seconds_high
        assert row.images_per_second == pytest.approx(2 / row.seconds)
        assert row.floor is not None
        assert row.floor < row.seconds
        assert (row.over_twin is not None) == row.model.startswith("convneur")
    assert found[0].over_twin_low <= found[0].over_twin <= found[0].over_twin_high


def test_a_step_of_training_is_timed_without_a_floor():
    (row,) = latency.measure(["test_convnext"], latency.Setting(32, 2, training=True), CPU, Rates(1, 1), rounds=1)
    assert row.seconds == row.seconds_low == row.seconds_high
    assert (row.floor, row.over_twin) == (None, None)


@pytest.mark.parametrize(
    ("name", "state", "placement"),
    [
        ("convneur_m2", "linear", "per_stage"),
        ("convneur_m2/mlp", "mlp", "per_stage"),
        ("convneur_m2/published", "mlp", "per_stage"),
        ("convneur_m2/local", "linear", "none"),
    ],
)
def test_forms_of_a_model(name, state, placement):
    with torch.device("meta"):
        model = latency.build(name)
    assert isinstance(model, ConvNeur)
    assert (model.global_config.memory.state, model.global_config.placement) == (state, placement)
    assert latency.twin_of(name) == "convnext_femto"


@pytest.mark.parametrize(
    ("name", "message"),
    [("convneur_m1/mpl", "did you mean 'mlp'"), ("convnext_ato", "did you mean 'convnext_"), ("resnet18/mlp", "model")],
)
def test_unknown_names_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        latency.build(name)


def test_the_floor_by_hand():
    """One convolution and one linear map; what is neither counts for nothing."""

    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(8 * 16, 10))

    work = dense_work(build, (2, 3, 4, 4))
    convolution = 2 * (2 * 4 * 4) * (3 * 9) * 8, 4 * (2 * 3 * 16 + 8 * 27 + 8 + 2 * 8 * 16)
    product = 2 * 2 * 128 * 10, 4 * (2 * 128 + 128 * 10 + 10 + 2 * 10)
    assert work == [convolution, product]
    assert Rates(flops=1e3, bytes=1e30).floor(work) == pytest.approx((convolution[0] + product[0]) / 1e3)
    assert Rates(flops=1e30, bytes=1e3).floor(work) == pytest.approx((convolution[1] + product[1]) / 1e3)


def test_rates_are_of_the_order_of_a_computer():
    rates = measured_rates(CPU, torch.float32, side=256, megabytes=8)
    assert 1e8 < rates.flops < 1e15
    assert 1e7 < rates.bytes < 1e13


def test_exponents_are_slopes_over_pixels():
    def row(model: str, size: int, seconds: float) -> latency.Latency:
        return latency.Latency(model, size, 1, seconds, seconds, seconds, 1 / seconds)

    found = [row("linear", size, 3e-6 * size**2) for size in (64, 128, 512)]
    found += [row("square", size, 1e-9 * size**4) for size in (64, 128, 512)] + [row("one", 64, 1.0)]
    assert latency.exponents(found) == pytest.approx({"linear": 1.0, "square": 2.0})


def test_csv_has_a_line_per_measurement():
    rows = [latency.Latency("a", 32, 1, 0.1, 0.09, 0.12, 10.0), latency.Latency("b", 32, 1, 0.2, 0.2, 0.2, 5.0, 2.0)]
    read = list(csv.DictReader(io.StringIO(latency.as_csv(rows))))
    assert [(line["model"], float(line["seconds"]), line["over_twin"]) for line in read] == [
        ("a", 0.1, ""),
        ("b", 0.2, "2.0"),
    ]


def test_spread():
    assert spread([4.0, 1.0, 2.0, 3.0, 5.0]) == (3.0, 2.0, 4.0)
    assert spread([2.0]) == (2.0, 2.0, 2.0)
