"""Training runs in processes of their own, small enough for a test."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

TINY = "--backbone.dims 8 16 24 32 --backbone.depths 1 1 1 1 --backbone.memory-width 16 "

# 11 steps an epoch; everything random is on: augmentation, mixed images, dropped paths, an average of the weights.
SMALL = (
    f"--data digits --image-size 32 --epochs 2 --batch-size 128 --fit.accelerator cpu {TINY}"
    "--backbone.drop-path-rate 0.1 --augment.mixup 0.2 --augment.cutmix 0.5 --augment.erasing 0.2"
).split()

# The same of a detector, on the scenes of tests.tasks.detection.builders: 4 steps an epoch, jitter and flips.
SMALL_DETECTOR = (
    f"--epochs 2 --batch-size 1 --min-size 96 --max-size 128 {TINY}"
    "--heads.out-channels 16 --heads.mask-channels 16 --heads.smallest-anchor 16 "
    "--heads.boxes-per-image 32 --heads.proposals 100 --heads.detections 20 --max-unreadable 0.5 "
    "--augment.vflip 0.5 --fit.accelerator cpu"
).split()

# The same of a segmentation model, on the scenes of tests.data.semantic.builders: 3 steps an epoch.
SMALL_SEGMENTER = (
    f"--epochs 2 --batch-size 2 --decoder-channels 32 {TINY}"
    "--augment.crop 64 64 --max-unreadable 0.5 --fit.accelerator cpu"
).split()


# Copies are made of a process that has imported all that training needs, which takes longer than the training, and done
# nothing else: of one in which a backward pass has run, PyTorch may refuse to train a copy.
_SERVER = multiprocessing.get_context("forkserver")
_IMPORTED = ("training.run", "tasks.classification.spec", "tasks.detection.spec", "tasks.segmentation.spec")


class Forked:
    """``convneur train`` in a process of its own, in a session of its own, so that its workers are killed with it."""

    def __init__(self, out: Path, *arguments: str) -> None:
        self.out = out
        self.log = out.with_suffix(".txt")
        self.log.touch()
        _SERVER.set_forkserver_preload([f"convneur.{name}" for name in _IMPORTED])
        self.process = _SERVER.Process(target=_train, args=([*arguments, "--out", str(out)], self.log))
        self.process.start()
        assert self.process.pid is not None
        self.pid: int = self.process.pid

    def poll(self) -> int | None:
        """Exit code if it has ended."""
        return self.process.exitcode

    def wait(self, seconds: float = 300) -> int:
        """Exit code, when it has ended."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, self.told()
        return self.process.exitcode

    def kill(self) -> None:
        """As a power cut would, with its workers."""
        os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def told(self) -> str:
        """What it printed."""
        return self.log.read_text()

    def checkpoints(self) -> list[str]:
        """Names of its checkpoints, the oldest first."""
        return sorted(path.name for path in (self.out / "checkpoints").glob("step-*.ckpt"))

    def until_saved(self, since: str = "") -> None:
        """Wait for a checkpoint that is newer than ``since``."""
        deadline = time.monotonic() + 120
        while not [name for name in self.checkpoints() if name > since]:
            assert self.poll() is None, self.told()
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.01)


def _train(arguments: list[str], log: Path) -> None:
    code = 1
    try:
        os.setsid()
        multiprocessing.set_start_method(None, force=True)  # workers begin as they do for people
        signal.signal(signal.SIGINT, signal.default_int_handler)
        file = os.open(log, os.O_WRONLY | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        import torch

        from convneur_command.main import main

        torch.set_num_threads(1)
        code = main(["train", *arguments])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def train(*arguments: str, **environment: str) -> subprocess.Popen:
    """Start ``convneur train`` from nothing, as a user does."""
    return subprocess.Popen(
        [sys.executable, "-m", "convneur", "train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"} | environment,
    )


def finish(process: subprocess.Popen, timeout: float = 300) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err
