"""Where the time goes: parts that add up, and a model that is run as it is."""

from __future__ import annotations

import csv
import io
import time

import pytest
import timm
import torch
from torch import nn

from convneur import ops
from convneur.bench import figures, latency, parts
from convneur.layers import fused as fused_module

CPU = torch.device("cpu")
SMALL = latency.Setting(size=64)
LOCAL = ["stem", "downsampling", "depthwise convolution", "norm and MLP", "residual"]


def names(profile: parts.Profile) -> list[str]:
    return [part.part for part in profile.parts]


def test_parts_of_ours_and_of_its_baseline():
    with ops.use_kernels(False):
        ours, mlp, baseline = parts.measure_parts(
            ["convneur_m1", "convneur_m1/mlp", "convnext_atto"], SMALL, CPU, rounds=2
        )
    assert names(ours) == [*LOCAL, "tokens", "write", "read", "gate", "head", "other"]
    assert names(mlp) == names(ours)
    assert names(baseline) == [*LOCAL, "head", "other"]
    assert [part.stage for part in ours.stages if part.part == "write"] == [0, 1, 2, 3]
    assert [part.stage for part in baseline.stages if part.part == "downsampling"] == [1, 2, 3]
    assert [part.stage for part in ours.stages if part.part in ("stem", "head")] == [None, None]


@pytest.mark.parametrize(
    ("name", "there"),
    [("convneur_m1/published", {"tokens", "write", "read", "gate"}), ("convneur_m1/local", set())],
)
def test_parts_of_other_forms(name, there):
    (profile,) = parts.measure_parts([name], SMALL, CPU, rounds=1)
    assert set(names(profile)) == {*LOCAL, "head", "other"} | there


def test_what_stands_in_the_memory_s_place_is_one_part():
    model = timm.create_model("convneur_m1", token_mixer="attention").eval()
    watch = parts.Watch(model, CPU)
    watch.run(lambda: model(torch.ones(1, 3, 64, 64)))
    (turn,) = watch.rounds()
    found = {place.part for place in turn}
    assert found == {*LOCAL, "tokens", "write and read", "gate", "head", "other"}


@pytest.mark.skipif(ops.global_branch.unavailable() is not None, reason="no kernel of the global branch")
def test_a_branch_that_is_one_operation_is_one_part():
    (profile,) = parts.measure_parts(["convneur_m1"], SMALL, CPU, rounds=1)
    assert names(profile) == [*LOCAL, "global branch", "gate", "head", "other"]


@pytest.mark.skipif(ops.local_branch.unavailable() is not None, reason="no kernel of the local branch")
@pytest.mark.parametrize("on", [True, False])
def test_a_fused_local_branch_is_one_part_with_and_without_kernels(on):
    with ops.use_kernels(on):
        (profile,) = parts.measure_parts(["convneur_m1"], latency.Setting(size=64, fused=True), CPU, rounds=1)
    branch = ["global branch"] if on else ["tokens", "write", "read"]
    assert names(profile) == ["stem", "downsampling", "local branch", *branch, "gate", "head", "other"]
    assert profile.fused


def test_parts_of_any_other_model_are_its_children():
    resnet, vit = parts.measure_parts(["test_resnet", "test_vit"], latency.Setting(size=160), CPU, rounds=1)
    assert {"conv1", "layer1", "layer4", "fc", "other"} <= set(names(resnet))
    assert {"patch_embed", "blocks", "head", "other"} <= set(names(vit))
    assert all(part.stage is None for part in resnet.parts + vit.parts)


def test_parts_add_up_to_the_whole_in_each_round():
    (profile,) = parts.measure_parts(["convneur_m1"], SMALL, CPU, rounds=1)
    for rows in (profile.parts, profile.stages):
        assert sum(part.seconds for part in rows) == pytest.approx(profile.watched)
        assert sum(part.share for part in rows) == pytest.approx(1)
    assert profile.overhead == pytest.approx(profile.watched / profile.seconds - 1)


class Slow(nn.Module):
    def __init__(self, seconds: float, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.seconds, self.inner = seconds, inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return x if self.inner is None else self.inner(x)


def test_a_part_is_charged_with_its_own_time():
    """Called twice, from inside another part and by itself; what is in no part is left over."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.early = Slow(0.02)
            self.late = Slow(0.01, self.early)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.03)
            return self.late(self.early(x))

    model = Model()
    watch = parts.Watch(model, CPU)
    for _ in range(2):
        watch.run(lambda: model(torch.ones(1)))
    for turn in watch.rounds():
        found = {place.part: seconds for place, seconds in turn.items()}
        assert found.keys() == {"early", "late", "other"}
        # Sleeping never takes less than was asked for.
        assert found["early"] >= 0.04
        assert found["late"] >= 0.01
        assert found["other"] >= 0.03
        assert found["late"] < found["early"]


def test_on_cuda_events_are_recorded_and_read_in_the_end(monkeypatch):
    """Without a GPU: a stand-in for its events, which tell milliseconds, and for waiting."""
    waited = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = time.perf_counter()

        def elapsed_time(self, other: Event) -> float:
            assert waited, "the device has to be done"
            return 1e3 * (other.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(1))
    model = nn.Sequential(Slow(0.01))
    watch = parts.Watch(model, torch.device("cuda"))
    start = time.perf_counter()
    watch.run(lambda: model(torch.ones(1)))
    passed = time.perf_counter() - start
    (turn,) = watch.rounds()
    assert 0.01 <= sum(turn.values()) < passed


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("on", [True, False])
def test_watching_changes_nothing_and_leaves_nothing_behind(fused, on, monkeypatch):
    """Same answer to the last bit, by the same kernels, and classes as they were."""
    model, images = latency.prepare("convneur_m1", latency.Setting(64, fused=fused), CPU)
    model.eval()
    classes = {type(module) for module in model.modules()}
    before = {kind: dict(vars(kind)) for kind in classes} | {ops.memory: dict(vars(ops.memory))}
    calls, seen = [], []
    for operation in ops.OPERATIONS:
        monkeypatch.setattr(operation, "kernel", noted(calls, operation.name, operation.kernel))
    prepacked = fused_module.run_prepacked
    monkeypatch.setattr(fused_module, "run_prepacked", noted(calls, "local_branch", prepacked))

    def step() -> None:
        with torch.inference_mode(), ops.use_kernels(on):
            seen.append(model(images))

    step()
    unwatched = list(calls)
    calls.clear()
    parts.Watch(model, CPU).run(step)
    assert torch.equal(*seen)
    assert calls == unwatched
    served = {operation.name for operation in ops.OPERATIONS if on and operation.unavailable() is None}
    packed = any(isinstance(module, fused_module.FusedLocalBranch) for module in model.modules())
    assert set(calls) == served - {"linear" if packed else "local_branch"}
    assert {owner: dict(vars(owner)) for owner in before} == before


def noted(calls, name, function):
    def note(*args):
        calls.append(name)
        return function(*args)

    return note


def test_an_error_inside_leaves_classes_as_they_were():
    model = timm.create_model("test_convnext").eval()
    before = {type(module): type(module).forward for module in model.modules()}
    with pytest.raises(RuntimeError):
        parts.Watch(model, CPU).run(lambda: model(torch.ones(1, 5, 64, 64)))
    assert all(kind.forward is forward for kind, forward in before.items())
    assert model(torch.ones(1, 3, 64, 64)).shape == (1, 1000)


def test_other_models_of_the_same_classes_are_not_watched():
    model, other = (nn.Sequential(Slow(0)) for _ in range(2))
    watch = parts.Watch(model, CPU)
    watch.run(lambda: other(torch.ones(1)))
    (turn,) = watch.rounds()
    assert {place.part for place in turn} == {"other"}


@pytest.mark.parametrize(
    ("setting", "device", "message"),
    [
        (latency.Setting(training=True), "cpu", "leave training"),
        (latency.Setting(compile=True), "cpu", "compile out"),
        (latency.Setting(), "meta", "take cpu or cuda"),
    ],
)
def test_what_cannot_be_watched_is_refused(setting, device, message):
    with pytest.raises(ValueError, match=message):
        parts.measure_parts(["convneur_m1"], setting, torch.device(device))


def test_lines_of_the_csv_add_up_to_the_model_and_bars_are_as_long():
    found = parts.measure_parts(["convneur_m1", "convnext_atto"], latency.Setting(64, batch=2), CPU, rounds=1)
    lines = list(csv.DictReader(io.StringIO(parts.as_csv(found))))
    for profile in found:
        mine = [float(line["seconds"]) for line in lines if line["model"] == profile.model]
        assert sum(mine) == pytest.approx(profile.watched)
    (axis,) = figures.profiles(found).axes
    ends = [max(bar.get_x() + bar.get_width() for bars in axis.containers for bar in [bars[row]]) for row in (0, 1)]
    assert ends == pytest.approx([1e3 * profile.watched / 2 for profile in found])
