"""The scripts in benchmarks/ that time models: run for a moment, on small images where they let us."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import timm
import torch
from timm.models import get_pretrained_cfg

from convneur import ops
from convneur.bench import latency

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def test_each_peer_has_an_accuracy_of_weights_that_exist_at_a_size_it_takes():
    with (SCRIPTS / "peers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({row["model"] for row in rows}) >= 10
    for row in rows:
        weights = get_pretrained_cfg(f"{row['model']}.{row['weights']}")
        assert weights is not None, row
        assert int(row["size"]) in (weights.input_size[-1], 224), row
        assert 70 < float(row["top1"]) < 90
        assert row["source"]
        assert row["model"] in timm.list_models()


def test_peers_times_draws_and_says_what_is_open(tmp_path, capsys):
    peers = load("peers")
    models = ["convneur_m1", "convneur_m3", "convnext_pico"]
    with pytest.raises(ValueError, match=r"no accuracy of convnext_atto is known; add a line to peers\.csv"):
        peers.points(models)
    peers.main(["--models", *models[1:], "--batches", "1", "--rounds", "1", "--out", str(tmp_path / "peers")])
    numbers = json.loads((tmp_path / "peers.json").read_text())
    ours, baseline = numbers["points"]
    assert (ours["started"], baseline["started"]) == (True, False)
    assert ours["top1"] == baseline["top1"] == 79.5
    assert [row["model"] for row in numbers["measurements"]] == models[1:]
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")
    assert "79.5 of its start" in capsys.readouterr().out


def test_ours_is_an_open_marker_and_the_caption_says_why():
    peers = load("peers")
    stands = peers.points(["convneur_m3", "convnext_pico", "fastvit_t12", "repvit_m1_1"])
    rows = [latency.Latency(point.model, 224, 2, 0.02, 0.01, 0.03, 100.0) for point in stands]
    figure = peers.draw(stands, {2: rows}, threads=2)
    (axis,) = figure.axes
    faces = [container.lines[0].get_markerfacecolor() for container in axis.containers]
    assert faces == ["white", "C0", "C0", "C0"]
    assert [container.lines[0].get_xdata()[0] for container in axis.containers] == pytest.approx([10.0] * 4)
    names = {text.get_text() for text in axis.texts}
    assert names == {"convneur_m3", "convnext_pico", "fastvit_t12, 256 px", "repvit_m1_1, distilled"}
    assert "the accuracy of the ConvNeXt it can be started from" in figure._supxlabel.get_text()


@pytest.mark.parametrize(("on", "most"), [(True, 250), (False, 450)])
def test_a_forward_makes_few_calls_of_python_inside_convneur(on, most):
    if on and any(operation.unavailable() for operation in ops.OPERATIONS):
        pytest.skip("not all kernels serve on this machine")
    model = timm.create_model("convneur_m1").eval()
    with ops.use_kernels(on):
        found = load("calls").count(model, torch.randn(1, 3, 64, 64))
    assert found["models/backbone.py:forward"] >= 1
    assert found.total() <= most, found.most_common(10)


def test_gpu_says_in_one_line_that_there_is_none(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert load("gpu").main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.strip().splitlines()) == 1
    assert "no CUDA device" in printed.err


def test_gpu_covers_all_variants_their_baselines_and_titans():
    names = load("gpu").MODELS
    assert {latency.baseline_of(name) or name for name in names} == {v.baseline for v in latency.VARIANTS.values()}
    assert len(names) == 3 * len(latency.VARIANTS)
    assert {name for name in names if "/" in name} == {f"{name}/titans" for name in latency.VARIANTS}


@pytest.mark.parametrize("training", [False, True])
def test_gpu_runs_elsewhere_too_and_lists_what_did_not(training, tmp_path, capsys, monkeypatch):
    """All but the GPU: bf16, channels_last, a table and JSON; a model that fails, and one whose package is missing."""
    gpu = load("gpu")

    def build(name):
        if name.endswith("/titans"):
            raise ImportError("pip install titans-pytorch")
        return latency.build(name)

    monkeypatch.setattr(gpu, "build", build)
    settings = [latency.Setting(32, batch, "bf16", False, training, channels_last=True) for batch in (1, 2)]
    models = ["convneur_m1", "convnext_atto", "convneur_m1/titans", "vit_tiny_patch16_224"]
    gpu.run(models, settings, torch.device("cpu"), 1, tmp_path / "gpu", {"device": "none"})
    numbers = json.loads((tmp_path / "gpu.json").read_text())
    assert [(row["model"], row["batch"]) for row in numbers["measurements"]] == [
        (model, batch) for batch in (1, 2) for model in models[:2]
    ]
    assert all(row["dtype"] == "bf16" and row["training"] == training for row in numbers["measurements"])
    assert {each["model"]: each["reason"][:11] for each in numbers["not_run"]} == {
        "convneur_m1/titans": "pip install",
        "vit_tiny_patch16_224": "AssertionEr",
    }
    table = (tmp_path / "gpu.md").read_text()
    assert table in capsys.readouterr().out + "\n"
    head, rule, *rows = [line for line in table.splitlines() if line.startswith("|")]
    assert "batch 2: ms | over its baseline | peak MB" in head
    assert {line.count("|") for line in (head, rule, *rows)} == {8}
    assert [row.split("|")[1].strip() for row in rows] == ["`convneur_m1`", "`convnext_atto`"]
    assert table.count("* not run: ") == 4
