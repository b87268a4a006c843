"""Where the time goes: parts that add up, and a model that is run as it is."""

from __future__ import annotations

import csv
import io
import time

import pytest
import timm
import torch
from torch import nn

from convneur.bench import figures, latency, parts
from convneur.layers import ConvNeurBlock, branch_kernel, local_kernel

CPU = torch.device("cpu")
SMALL = latency.Setting(size=64)
LOCAL = ["stem", "downsampling", "depthwise convolution", "norm and MLP", "residual"]


def names(profile: parts.Profile) -> list[str]:
    return [part.part for part in profile.parts]


def test_parts_of_ours_and_of_its_twin(monkeypatch):
    monkeypatch.setattr(branch_kernel, "LIBRARY", None)
    ours, split, twin = parts.measure_parts(["convneur_m1", "convneur_m1/mlp", "convnext_atto"], SMALL, CPU, rounds=2)
    assert names(ours) == [*LOCAL, "tokens", "write", "read", "gate", "head", "other"]
    assert names(split) == names(ours)
    assert names(twin) == [*LOCAL, "head", "other"]
    assert [part.stage for part in ours.stages if part.part == "write"] == [0, 1, 2, 3]
    assert [part.stage for part in twin.stages if part.part == "downsampling"] == [1, 2, 3]
    assert [part.stage for part in ours.stages if part.part in ("stem", "head")] == [None, None]


@pytest.mark.parametrize(
    ("name", "fused", "there"),
    [
        ("convneur_m1", True, {"tokens", "write", "read", "gate"}),
        ("convneur_m1/published", False, {"tokens", "write", "read", "gate"}),
        ("convneur_m1/local", False, set()),
    ],
)
def test_parts_of_other_forms(name, fused, there, monkeypatch):
    for kernel in (local_kernel, branch_kernel):
        monkeypatch.setattr(kernel, "LIBRARY", None)
    (profile,) = parts.measure_parts([name], latency.Setting(size=64, fused=fused), CPU, rounds=1)
    assert set(names(profile)) == {*LOCAL, "head", "other"} | there
    assert profile.fused == fused


@pytest.mark.skipif(local_kernel.LIBRARY is None, reason="the C library of the local block was not built")
@pytest.mark.skipif(branch_kernel.LIBRARY is None, reason="the C library of the global branch was not built")
def test_a_branch_by_one_call_is_one_part():
    (plain,) = parts.measure_parts(["convneur_m1"], latency.Setting(size=64), CPU, rounds=1)
    assert names(plain) == [*LOCAL, "global branch", "gate", "head", "other"]
    (fused,) = parts.measure_parts(["convneur_m1"], latency.Setting(size=64, fused=True), CPU, rounds=1)
    whole = ["local branch", "residual", "global branch"]
    assert names(fused) == ["stem", "downsampling", *whole, "gate", "head", "other"]


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


def test_watching_changes_nothing_and_leaves_nothing_behind(monkeypatch):
    """Same answer to the last bit, the same in-place GELU, no hook, and no method that stays."""
    model, images = latency.prepare("convneur_m1", SMALL, CPU)
    model.eval()
    before = [{name for name in vars(module) if not name.startswith("_")} for module in model.modules()]
    calls, seen = [], []
    gelu_ = torch.ops.aten.gelu_.default
    monkeypatch.setattr(
        torch.ops.aten.gelu_, "default", lambda *args, **kwargs: calls.append(1) or gelu_(*args, **kwargs)
    )

    def step() -> None:
        with torch.inference_mode():
            seen.append(model(images))
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())

    step()
    unwatched = len(calls)
    parts.Watch(model, CPU).run(step)
    assert torch.equal(*seen)
    assert len(calls) == 2 * unwatched >= 2 * sum(isinstance(module, ConvNeurBlock) for module in model.modules())
    assert [{name for name in vars(module) if not name.startswith("_")} for module in model.modules()] == before


def test_an_error_inside_leaves_the_model_as_it_was():
    model = timm.create_model("test_convnext").eval()
    with pytest.raises(RuntimeError):
        parts.Watch(model, CPU).run(lambda: model(torch.ones(1, 5, 64, 64)))
    assert "forward" not in vars(model.stem)
    assert model(torch.ones(1, 3, 64, 64)).shape == (1, 1000)


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
