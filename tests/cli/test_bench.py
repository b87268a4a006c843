"""``convneur bench`` on small images."""

import io
import json

import pytest

from convneur.bench import tables as bench_tables
from convneur.bench.latency import Latency
from convneur.printing import Console
from convneur_command.main import main

QUICK = "--models convneur_m1 convnext_atto --rounds 2 --device cpu".split()


@pytest.mark.parametrize(
    ("what", "sizes"), [("latency", ["32"]), pytest.param("scaling", ["32", "64"], marks=pytest.mark.slow)]
)
def test_table_picture_csv_and_json(what, sizes, tmp_path, capsys):
    assert main(["bench", what, *QUICK, "--sizes", *sizes, "--batches", "1", "--out", str(tmp_path), "--json"]) == 0
    printed = capsys.readouterr()
    numbers = json.loads(printed.out)
    assert numbers == json.loads((tmp_path / f"{what}.json").read_text())
    assert [(row["model"], row["size"]) for row in numbers["measurements"]] == [
        (model, int(size)) for size in sizes for model in ("convneur_m1", "convnext_atto")
    ]
    both = {"convneur_m1", "convnext_atto"} if what == "scaling" else set()
    assert set(numbers["exponents"]) == set(numbers["peak_exponents"]) == both
    for row in numbers["measurements"]:
        assert row["peak_bytes"] > 0
        assert (row["peak_over_baseline"] is not None) == (row["model"] == "convneur_m1")
    assert len((tmp_path / f"{what}.csv").read_text().splitlines()) == 1 + 2 * len(sizes)
    assert (tmp_path / f"{what}.png").read_bytes().startswith(b"\x89PNG")
    assert "/ baseline" in printed.err
    assert "…" not in printed.err, "it fits a terminal of 80 columns"


def test_fused_models_are_timed_with_a_floor(tmp_path, capsys):
    sizes = ["--sizes", "32", "--batches", "1", "--out", str(tmp_path)]
    assert main(["bench", *QUICK, "--fused", *sizes]) == 0
    numbers = json.loads((tmp_path / "latency.json").read_text())
    assert numbers["fused"]
    assert all(0 < row["roofline"] < row["seconds"] for row in numbers["measurements"])


@pytest.mark.parametrize("by_stage", [False, True])
def test_profile(by_stage, tmp_path, capsys):
    models = ["convneur_m1", "convnext_atto"]
    arguments = ["--rounds", "2", "--sizes", "32", "--json", "--out", str(tmp_path), *["--by-stage"] * by_stage]
    assert main(["bench", "profile", *models, "--device", "cpu", *arguments]) == 0
    printed = capsys.readouterr()
    numbers = json.loads(printed.out)
    assert numbers == json.loads((tmp_path / "profile.json").read_text())
    assert [profile["model"] for profile in numbers["profiles"]] == models
    lines = (tmp_path / "profile.csv").read_text().splitlines()
    assert len(lines) == 1 + sum(len(profile["stages"]) for profile in numbers["profiles"])
    assert (tmp_path / "profile.png").read_bytes().startswith(b"\x89PNG")
    assert printed.err.count("depthwise convolution") == 2 * (4 if by_stage else 1)
    assert "unwatched" in printed.err
    assert "…" not in printed.err


def test_tables_fit_whatever_the_numbers():
    """Large numbers and long names in a terminal of 80 columns: names are folded, numbers are whole."""
    rows = [
        Latency(
            "convneur_m1/published", size, batch, 12.3456, 12.3, 12.4, 0.3, 5.5102, 5.4, 5.6, 2.796, 2_854_123_456, 6.1
        )
        for size, batch in ((224, 1), (2048, 256))
    ]
    for exponents in ({}, {"convneur_m1/published": 1.234}):
        console = Console(width=80, record=True, file=io.StringIO())
        console.print(bench_tables.latencies(rows, exponents, exponents))
        text = console.export_text()
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= 80
        assert all(part in text for part in ("2048", "256", "12346", "12300-12400", "5.510", "2796", "2854"))
        assert ("1.234" in text) == bool(exponents)


@pytest.mark.slow
def test_a_model_that_does_not_run_is_named_and_the_others_are_timed(tmp_path, capsys):
    shared = ["--rounds", "1", "--sizes", "64", "--batches", "1", "--device", "cpu", "--out", str(tmp_path)]
    assert main(["bench", "latency", "test_convnext", "vit_tiny_patch16_224", *shared]) == 0
    assert "Not run: vit_tiny_patch16_224, 64 px, batch 1: AssertionError" in capsys.readouterr().err
    numbers = json.loads((tmp_path / "latency.json").read_text())
    assert [row["model"] for row in numbers["measurements"]] == ["test_convnext"]
    assert [row["model"] for row in numbers["not_run"]] == ["vit_tiny_patch16_224"]
    assert main(["bench", "latency", "vit_tiny_patch16_224", *shared]) == 2
    assert "was made with another model list" in capsys.readouterr().err
    assert main(["bench", "latency", "vit_tiny_patch16_224", *shared, "--overwrite"]) == 2
    assert (tmp_path / "latency.json").is_file(), "nothing came out to replace it"
    err = capsys.readouterr().err.strip().splitlines()
    assert len(err) == 1
    assert "no model could be run; vit_tiny_patch16_224" in err[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "convneur_m9"], "did you mean 'convneur_m"),
        (["--sizes", "16"], "--sizes 32 or more"),
        (["--rounds", "0"], "must be 1 or more"),
        (["--fused", "--training"], "leave --fused or --training out"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, capsys):
    assert main(["bench", *QUICK, *arguments, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert message in err[-1]
    assert len(err) == 1
    assert not (tmp_path / "out").exists()


def test_an_unknown_model_gets_the_nearest_of_so_many(tmp_path, capsys):
    assert main(["bench", "latency", "nosuch", "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err.strip()
    assert err.startswith("convneur: model 'nosuch' is not known; the nearest of ")
    assert err.count("', '") == 2
    assert len(err) < 200


def test_a_profile_of_what_does_not_run_is_one_line(tmp_path, capsys):
    arguments = ["vit_tiny_patch16_224", "--sizes", "64", "--rounds", "1", "--out", str(tmp_path / "out")]
    assert main(["bench", "profile", *arguments]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert len(err) == 1
    assert "vit_tiny_patch16_224 does not run at 64 px, batch 1; give other sizes" in err[0]


def test_a_profile_is_of_inference_as_it_is(tmp_path, capsys):
    for flag in ("--training", "--compile"):
        assert main(["bench", "profile", "convneur_m1", flag, "--out", str(tmp_path / "out")]) == 2
        err = capsys.readouterr().err.strip().splitlines()
        assert len(err) == 1
        assert "leave --training and --compile out" in err[0]
