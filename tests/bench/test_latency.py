"""Timing side by side, and the roofline bound below it."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from convneur import ops
from convneur.bench import latency
from convneur.bench.roofline import Rates, dense_work, measured_rates
from convneur.bench.throughput import spread
from convneur.models import ConvNeur

CPU = torch.device("cpu")


def test_each_model_is_timed_and_ours_is_set_beside_its_baseline():
    names = ["convneur_m1", "convnext_atto", "convneur_m1/local", "resnet10t"]
    found = latency.measure(names, latency.Setting(size=32, batch=2), CPU, Rates(1e15, 1e15), rounds=3)
    assert [row.model for row in found] == names
    for row in found:
        assert 0 < row.seconds_low <= row.seconds <= row.seconds_high
        assert row.images_per_second == pytest.approx(2 / row.seconds)
        assert row.roofline is not None
        assert row.roofline < row.seconds
        assert (row.over_baseline is not None) == row.model.startswith("convneur")
        assert row.peak_bytes > 4 * 2 * 1000, "the logits at least"
        assert row.peak_over_baseline == (row.peak_bytes / found[1].peak_bytes if row.over_baseline else None)
    assert found[0].over_baseline_low <= found[0].over_baseline <= found[0].over_baseline_high


def test_a_step_of_training_is_timed_without_a_roofline():
    (row,) = latency.measure(["test_convnext"], latency.Setting(32, 2, training=True), CPU, Rates(1, 1), rounds=1)
    assert row.seconds == row.seconds_low == row.seconds_high
    assert (row.roofline, row.over_baseline) == (None, None)
    weights = sum(p.numel() for p in latency.build("test_convnext").parameters())
    assert row.peak_bytes > 4 * weights, "gradients are held while the optimizer steps"


def test_peak_memory_is_that_of_the_model_over_that_of_its_baseline(monkeypatch):
    peaks = iter([300, 200])
    monkeypatch.setattr(latency, "peak_bytes", lambda step, device: next(peaks))
    ours, baseline = latency.measure(["convneur_m1", "convnext_atto"], latency.Setting(32), CPU, rounds=1)
    assert (ours.peak_bytes, ours.peak_over_baseline) == (300, 1.5)
    assert (baseline.peak_bytes, baseline.peak_over_baseline) == (200, None)


def test_each_model_may_have_a_setting_of_its_own():
    settings = {"test_vit": latency.Setting(160, 2), "test_convnext": latency.Setting(64, 1)}
    found = latency.measure_each(settings, CPU, rounds=1)
    assert [(row.model, row.size, row.batch) for row in found] == [("test_vit", 160, 2), ("test_convnext", 64, 1)]


def test_fused_models_are_run_fused():
    """Ours has fused local branches where there is a kernel; RepViT has no parallel branches left."""
    ours, _ = latency.prepare("convneur_m1", latency.Setting(64, fused=True), CPU)
    blocks = [block for stage in ours.stages for block in stage.blocks]
    assert all((block.fused is not None) == (ops.local_branch.missing is None) for block in blocks)
    sizes = {}
    for fused in (False, True):
        model, images = latency.prepare("repvit_m0_9", latency.Setting(64, fused=fused), CPU)
        sizes[fused] = len(list(model.modules()))
        assert model.eval()(images).shape == (1, 1000)
    assert sizes[True] < sizes[False]
    with pytest.raises(ValueError, match="cannot be trained"):
        latency.measure(["convneur_m1"], latency.Setting(fused=True, training=True), CPU)


def test_what_fails_at_first_is_left_out_with_the_reason_or_raised():
    names = ["test_convnext", "vit_tiny_patch16_224"]  # the latter takes 224 px only
    not_run = {}
    found = latency.measure(names, latency.Setting(64), CPU, rounds=1, not_run=not_run)
    assert [row.model for row in found] == ["test_convnext"]
    assert list(not_run) == ["vit_tiny_patch16_224"]
    assert "(224)" in not_run["vit_tiny_patch16_224"]
    assert "\n" not in not_run["vit_tiny_patch16_224"]
    with pytest.raises(AssertionError, match="224"):
        latency.measure(names, latency.Setting(64), CPU, rounds=1)


class Counter:
    """A backend of torch.compile that counts what it is given and runs it as it is."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []

    def __call__(self, graph, inputs):
        self.graphs.append(graph)
        return graph.forward


@pytest.fixture
def counter(monkeypatch):
    counter, compile_ = Counter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: compile_(*args, backend=counter, **kwargs))
    return counter


@pytest.mark.slow
def test_each_model_is_compiled_once_and_apart_from_the_others(counter):
    """Several of one class, which run the same functions, at two sizes; and never while they are timed."""
    names = ["test_convnext", "test_convnext2", "test_convnext3"]
    for count, size in ((3, 32), (6, 64)):
        with torch._dynamo.config.patch(error_on_recompile=True):
            assert len(latency.measure(names, latency.Setting(size, compile=True), CPU, rounds=2)) == len(names)
        assert len(counter.graphs) == count


@pytest.mark.slow
def test_what_cannot_be_compiled_does_not_take_the_others_with_it(monkeypatch):
    compile_ = torch.compile

    def backend(graph, inputs):
        if any(node.target is torch.sigmoid or node.target == "sigmoid" for node in graph.graph.nodes):
            raise NotImplementedError("no gates here")
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: compile_(*args, backend=backend, **kwargs))
    not_run = {}
    names = ["convneur_m1", "convneur_m1/local"]
    found = latency.measure(names, latency.Setting(32, compile=True), CPU, rounds=1, not_run=not_run)
    assert [row.model for row in found] == ["convneur_m1/local"]
    assert "no gates here" in not_run["convneur_m1"]


@pytest.mark.parametrize(
    ("name", "state", "placement"),
    [
        ("convneur_m2", "slots", "per_stage"),
        ("convneur_m2/linear", "linear", "per_stage"),
        ("convneur_m2/mlp", "mlp", "per_stage"),
        ("convneur_m2/published", "mlp", "per_stage"),
        ("convneur_m2/local", "slots", "none"),
    ],
)
def test_forms_of_a_model(name, state, placement):
    with torch.device("meta"):
        model = latency.build(name)
    assert isinstance(model, ConvNeur)
    assert (model.global_config.memory.state, model.global_config.placement) == (state, placement)
    assert latency.baseline_of(name) == "convnext_femto"


@pytest.mark.slow
def test_titans_can_be_looked_at_before_anything_else_is_built():
    """Its package cannot be imported on the meta device, where the command line and the roofline build models."""
    pytest.importorskip("titans_pytorch")
    code = """if True:
        import torch
        from convneur.bench import latency
        with torch.device("meta"):
            model = latency.build("convneur_m1/titans")
        assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [("convneur_m1/mpl", "did you mean 'mlp'"), ("convnext_ato", "did you mean 'convnext_"), ("resnet18/mlp", "model")],
)
def test_unknown_names_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        latency.build(name)


def test_the_roofline_by_hand():
    """One convolution and one linear map; what is neither counts for nothing."""

    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(8 * 16, 10))

    work = dense_work(build, (2, 3, 4, 4))
    convolution = 2 * (2 * 4 * 4) * (3 * 9) * 8, 4 * (2 * 3 * 16 + 8 * 27 + 8 + 2 * 8 * 16)
    product = 2 * 2 * 128 * 10, 4 * (2 * 128 + 128 * 10 + 10 + 2 * 10)
    assert work == [convolution, product]
    assert Rates(flops=1e3, bytes=1e30).seconds(work) == pytest.approx((convolution[0] + product[0]) / 1e3)
    assert Rates(flops=1e30, bytes=1e3).seconds(work) == pytest.approx((convolution[1] + product[1]) / 1e3)


def test_rates_are_of_the_order_of_a_computer():
    rates = measured_rates(CPU, torch.float32, side=256, megabytes=8)
    assert 1e8 < rates.flops < 1e15
    assert 1e7 < rates.bytes < 1e13


@pytest.mark.parametrize("dtype", latency.DTYPES.values())
def test_rates_of_each_type(dtype):
    assert measured_rates(CPU, dtype, side=64, megabytes=1).flops > 0


def test_exponents_are_slopes_over_pixels():
    def row(model: str, size: int, seconds: float) -> latency.Latency:
        return latency.Latency(model, size, 1, seconds, seconds, seconds, 1 / seconds)

    found = [row("linear", size, 3e-6 * size**2) for size in (64, 128, 512)]
    found += [row("square", size, 1e-9 * size**4) for size in (64, 128, 512)] + [row("one", 64, 1.0)]
    assert latency.exponents(found) == pytest.approx({"linear": 1.0, "square": 2.0})
    assert latency.exponents(found, "peak_bytes") == {}, "not known"
    found = [replace(row, peak_bytes=row.size**3) for row in found]
    assert latency.exponents(found, "peak_bytes") == pytest.approx({"linear": 1.5, "square": 1.5})


def test_csv_has_a_line_per_measurement():
    rows = [latency.Latency("a", 32, 1, 0.1, 0.09, 0.12, 10.0), latency.Latency("b", 32, 1, 0.2, 0.2, 0.2, 5.0, 2.0)]
    read = list(csv.DictReader(io.StringIO(latency.as_csv(rows))))
    assert [(line["model"], float(line["seconds"]), line["over_baseline"]) for line in read] == [
        ("a", 0.1, ""),
        ("b", 0.2, "2.0"),
    ]


def test_spread():
    assert spread([4.0, 1.0, 2.0, 3.0, 5.0]) == (3.0, 2.0, 4.0)
    assert spread([2.0]) == (2.0, 2.0, 2.0)
