"""Help, the version and mistakes are answered before anything heavy is imported."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys

import pytest

import convneur
from convneur_command.main import main, verbs

HEAVY = {"torch", "timm", "torchvision", "numpy", "lightning", "convneur", "PIL"}
SCRIPT = """
import json, sys
from convneur_command import main
try:
    code = main()
except SystemExit as left:
    code = left.code
json.dump([code, sorted({name.partition(".")[0] for name in sys.modules})], sys.__stderr__)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["trian"],
        ["train", "photos"],
        ["train", "--help"],
        ["train", "instance", "--help"],
        ["train", "segmentation", "--help"],
        ["ablate", "--help"],
        ["predict", "--help"],
        ["info", "--sise", "3"],
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_imported(arguments):
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stderr.splitlines()[-1])
    assert code == (0 if arguments[-1] in ("--help", "--version") else 2)
    assert not HEAVY & set(modules)


def test_help_has_every_verb_once_by_what_it_is_for(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^(\w+):$", shown, re.MULTILINE) == ["Train", "Use", "Look", "Deploy", "Research"]
    assert sorted(re.findall(r"^  (\w+)  ", shown, re.MULTILINE)) == sorted(verbs(()))
    assert main([]) == 2
    assert capsys.readouterr().err == shown


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{convneur.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["trian"], "trian is no verb; did you mean train?"),
        (["xyz"], "xyz is no verb; use one of demo, train, "),
        (["train", "photos"], "photos is no task; write convneur train --data photos"),
        (["train", "detecton"], "detecton is no task; did you mean detection?"),
        (["train", "--data", "photos", "--lr", "1"], "--lr is called --optim.lr here"),
        (["predict", "a.jpg", "--conf=0.5"], "--conf is called --score here"),
        (["train", "\x1b[31mred"], r"\x1b[31mred is no task; "),
    ],
)
def test_what_was_meant_is_said_in_one_line(arguments, told, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"convneur: {told}")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            "predict x.jpg --model m --foo 3",
            "unrecognized options: --foo, 3; convneur predict --help lists all options",
        ),
        ("predict x.jpg --model m --\x1b[31mred", r"unrecognized options: --\x1b[31mred; "),
        ("train --data x --epochz 3", "unrecognized options: --epochz, 3; did you mean --epochs?"),
        ("train detection --data x --optim.lrr 3", "unrecognized options: --optim.lrr, 3; did you mean --optim.lr?"),
        ("train --data x --epochs three", "error parsing --epochs: invalid literal for int() with base 10: 'three'; "),
        ("eval --model m", "convneur eval needs --data; convneur eval --help tells what that is"),
        ("train segmentation --data x --compile", "unrecognized or misplaced options: --compile; convneur train seg"),
        ("stream", "convneur stream needs an argument and --model; "),
        ("predict x.jpg --model m --format yaml", "invalid choice 'yaml' for argument '--format'. Expected one of ("),
    ],
)
def test_what_is_wrong_with_an_option_is_said_in_one_line(arguments, told, capsys, monkeypatch):
    assert refused(arguments, "utf-8", capsys, monkeypatch).startswith(f"convneur: {told}")


def test_where_the_output_is_not_in_utf8_it_is_the_same_line(capsys, monkeypatch):
    for arguments in ("train --data x --epochz 3", "stream", "predict x.jpg --model m --format yaml"):
        assert len({refused(arguments, encoding, capsys, monkeypatch) for encoding in ("utf-8", "ascii")}) == 1


def refused(arguments, encoding, capsys, monkeypatch):
    """The one line."""
    printed = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr("sys.stdout", printed)
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    assert ended.value.code == 2
    printed.flush()
    assert printed.buffer.getvalue() == b""
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said
