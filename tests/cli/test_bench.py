"""``convneur bench`` on small images."""

import json

import pytest

from convneur.cli.main import main

QUICK = "--models convneur_m1 convnext_atto --rounds 2 --device cpu".split()


@pytest.mark.parametrize(("what", "sizes"), [("latency", ["32"]), ("scaling", ["32", "64"])])
def test_table_picture_csv_and_json(what, sizes, tmp_path, capsys):
    assert main(["bench", what, *QUICK, "--sizes", *sizes, "--batches", "1", "--out", str(tmp_path), "--json"]) == 0
    printed = capsys.readouterr()
    numbers = json.loads(printed.out)
    assert numbers == json.loads((tmp_path / f"{what}.json").read_text())
    assert [(row["model"], row["size"]) for row in numbers["measurements"]] == [
        (model, int(size)) for size in sizes for model in ("convneur_m1", "convnext_atto")
    ]
    assert set(numbers["exponents"]) == ({"convneur_m1", "convnext_atto"} if what == "scaling" else set())
    assert len((tmp_path / f"{what}.csv").read_text().splitlines()) == 1 + 2 * len(sizes)
    assert (tmp_path / f"{what}.png").read_bytes().startswith(b"\x89PNG")
    assert "/ twin" in printed.err
    assert "…" not in printed.err, "it fits a terminal of 80 columns"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "convneur_m9"], "did you mean 'convneur_m"),
        (["--sizes", "16"], "--sizes 32 or more"),
        (["--rounds", "0"], "must be 1 or more"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, capsys):
    assert main(["bench", *QUICK, *arguments, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert message in err[-1]
    assert len(err) == 1
    assert not (tmp_path / "out").exists()
