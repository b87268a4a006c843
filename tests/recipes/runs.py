"""Training runs in processes of their own, small enough for a test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# 11 steps an epoch; everything random is on: augmentation, mixed images, dropped paths, an average of the weights.
SMALL = (
    "--data digits --image-size 32 --eval-size 32 --epochs 2 --batch-size 128 --fit.accelerator cpu "
    "--backbone.drop-path-rate 0.1 --augment.mixup 0.2 --augment.cutmix 0.5 --augment.erasing 0.2"
).split()


def start(*arguments: str, **environment: str) -> subprocess.Popen:
    """Start ``convneur train`` in a session of its own, so that its workers can be killed with it."""
    return subprocess.Popen(
        [sys.executable, "-m", "convneur", "train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"} | environment,
        start_new_session=True,
    )


def finish(process: subprocess.Popen, timeout: float = 300) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    return finish(start(*arguments, **environment))


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("step-*.ckpt"))
