"""Ctrl-C and SIGTERM end the command from its first moment on, also while libraries are imported that catch it."""

import os
import signal
import subprocess
import sys

import pytest

HOOK = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["STOP_AT"] and self in sys.meta_path:
            sys.meta_path.remove(self)
            try:
                os.kill(os.getpid(), int(os.environ["STOP_BY"]))
                [None for _ in range(10)]
            except BaseException:
                if not os.environ["CAUGHT"]:
                    raise
sys.meta_path.insert(0, Finder())
"""
SMALL = "--data digits --image-size 32 --epochs 1 --fit.accelerator cpu --workers 0 --train-images 100".split()
MODULE = ["-m", "convneur"]
SCRIPT = ["-c", "import sys; from convneur_command import main; sys.exit(main())"]

# How the command is started, the module at whose import the signal comes, and the verb.
EARLY = [(MODULE, "convneur.memory", ["info"]), (SCRIPT, "convneur", ["info"]), (MODULE, "torch", ["train", *SMALL])]
LATER = [
    (MODULE, "timm", ["info"]),
    (MODULE, "tyro", ["predict", "x.png", "--model", "convneur_m1"]),
    (SCRIPT, "convneur.interrupts", ["eval", "--model", "x", "--data", "digits"]),
    (MODULE, "lightning.pytorch", ["train", *SMALL]),
    (SCRIPT, "torchmetrics", ["train", *SMALL]),
    (SCRIPT, "convneur.tasks.detection.spec", ["train", "detection", "--data", "x"]),
    (MODULE, "convneur.export", ["eval", "--model", "x", "--data", "digits"]),
]


def ended(start, module, verb, number, caught, folder) -> tuple[int, str]:
    """Exit code and standard error."""
    (folder / "sitecustomize.py").write_text(HOOK)
    where = {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)]), "STOP_AT": module}
    out = ["--out", str(folder / "out")] if verb[0] in ("train", "eval") else []
    done = subprocess.run(
        [sys.executable, *start, *verb, *out],
        capture_output=True,
        text=True,
        env=os.environ | where | {"STOP_BY": str(int(number)), "CAUGHT": "1" if caught else ""},
        cwd=folder,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(("start", "module", "verb"), EARLY, ids=lambda value: str(value)[:20])
def test_a_signal_in_the_first_moment_ends_the_command(start, module, verb, tmp_path):
    assert ended(start, module, verb, signal.SIGINT, True, tmp_path) == (130, "convneur: stopped\n")


@pytest.mark.slow
@pytest.mark.parametrize("caught", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize(("start", "module", "verb"), LATER, ids=lambda value: str(value)[:20])
def test_a_signal_in_an_import_ends_the_command(start, module, verb, number, caught, tmp_path):
    code, told = ended(start, module, verb, number, caught, tmp_path)
    assert code == 128 + number, told
    assert told.splitlines()[-1] == "convneur: stopped"
    assert "Traceback" not in told
    assert not (tmp_path / "out" / "run.json").exists()
