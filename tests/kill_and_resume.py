"""Kill commands at drawn moments, give them again, and compare what comes out with that of a run nobody disturbed.

Run ``python -m tests.kill_and_resume 30 --seed 0``: thirty kills, two of them in a run. Exit code 1 if anything
differs. A full disk is a small one in memory, which only root may mount; others leave it out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from convneur.training.checkpoints import load_checkpoint
from tests.data.semantic.builders import write_scenes as write_pixels
from tests.embedding.builders import photo_folder
from tests.export.builders import saved
from tests.tasks.detection.builders import write_scenes as write_objects
from tests.training.runs import SMALL, SMALL_DETECTOR, SMALL_SEGMENTER, TINY

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
FULL_DISK = "full disk"
OFTEN = ("--fit.checkpoint-minutes", "0.0001")  # after every step
COMMAND = "import sys; from convneur_command import main; sys.exit(main())"
OTHERS = ("command", "versions", "ms_per_image")  # numbers that may differ
PATIENCE = 600.0  # seconds that a run may take
KILLS_IN_A_RUN = 2


@dataclass(frozen=True)
class Case:
    """A command, and what comes of it.

    Attributes:
        name: In the table.
        words: Of the command.
        outcome: What is compared, of the folder it wrote.
        trains: Whether it is a training: it goes on with --resume, and its phases show in its folder.
    """

    name: str
    words: tuple[str, ...]
    outcome: Callable[[Path], Any]
    trains: bool = False


@dataclass
class Course:
    """How a run went that nobody disturbed.

    Attributes:
        outcome: What came of it.
        seconds: From its start to the first file, the last checkpoint, the numbers, and the end.
        steps: Names of its checkpoints.
        size: Largest number of bytes in its folder.
    """

    outcome: Any = None
    seconds: dict[str, float] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    size: int = 0


@dataclass(frozen=True)
class Kill:
    """What was done to a run: how, when, and with which exit code it ended; `fault` if that was not in good order."""

    how: str
    when: str
    code: int
    fault: str = ""


def cases(root: Path) -> list[Case]:
    """All commands, on data that is made here."""
    model = saved(root / "model", list("abcde"))
    photos = photo_folder(root / "photos", 60)
    pixels = write_pixels(root / "pixels")
    objects = write_objects(root / "objects")
    np.save(root / "image.npy", np.random.default_rng(0).random((768, 1024, 3), dtype=np.float32))
    given = ("--model", str(model))
    ablate = "ablate placement --data digits --image-size 32 --batch-size 64 --epochs 1 --only per_stage --workers 0 "
    ablate += f"{TINY} --fit.accelerator cpu"
    return [
        Case("classification", ("train", *SMALL, *OFTEN, "--workers", "1"), trained, trains=True),
        Case(
            "instance",
            ("train", "instance", "--data", str(objects), *SMALL_DETECTOR, *OFTEN, "--workers", "0"),
            trained,
            trains=True,
        ),
        Case(
            "segmentation",
            ("train", "segmentation", "--data", str(pixels), *SMALL_SEGMENTER, *OFTEN, "--workers", "0"),
            trained,
            trains=True,
        ),
        Case(
            "embed", ("embed", str(photos), *given, "--part-size", "4", "--batch-size", "4", "--workers", "1"), embedded
        ),
        Case("stream", ("stream", str(root / "image.npy"), *given, "--out-indices", "0", "1"), streamed),
        Case("ablate", tuple(ablate.split()), ablated),
    ]


def trained(out: Path) -> dict[str, Any]:
    """Weights, state of the optimizer, and all numbers but times."""
    numbers = json.loads((out / "metrics.json").read_text())
    for row in numbers["curve"]:
        row.pop("waiting_for_data")
    kept = load_checkpoint(checkpoints(out)[-1])
    state = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")
    return {
        "weights": load_file(out / "model" / "model.safetensors"),
        "best weights": load_file(out / "model-best" / "model.safetensors"),
        "last checkpoint": {name: kept[name] for name in state},
        "numbers": {name: value for name, value in numbers.items() if name not in OTHERS},
        "report": (out / "report.html").is_file(),
    }


def embedded(out: Path) -> dict[str, Any]:
    """All parts, and what is said of them."""
    about = json.loads((out / "embed.json").read_text())
    parts = {path.name: pq.read_table(path).to_pydict() for path in sorted(out.glob("part-*.parquet"))}
    return {"parts": parts, **{name: about[name] for name in ("made_from", "finished", "embedded", "unreadable")}}


def streamed(out: Path) -> dict[str, Any]:
    """All arrays."""
    return {path.name: torch.from_numpy(np.load(path)) for path in sorted(out.glob("*.npy"))}


def ablated(out: Path) -> dict[str, Any]:
    """All numbers of training."""
    return {
        "runs": json.loads((out / "placement.json").read_text())["runs"],
        "picture": (out / "placement.png").is_file(),
    }


def differences(a: Any, b: Any, name: str = "") -> list[str]:
    """Where two outcomes are not the same to the last bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        alike = a.dtype == b.dtype and a.shape == b.shape
        same = alike and a.contiguous().numpy().tobytes() == b.contiguous().numpy().tobytes()
        return [] if same else [name]
    if type(a) is not type(b):
        return [name]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [name]
        return [each for key in a for each in differences(a[key], b[key], f"{name}/{key}")]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [name]
        return [each for i, pair in enumerate(zip(a, b, strict=True)) for each in differences(*pair, f"{name}/{i}")]
    return [] if a == b or (a != a and b != b) else [name]


def checkpoints(out: Path) -> list[Path]:
    return sorted((out / "checkpoints").glob("step-*.ckpt"))


def start(case: Case, out: Path) -> subprocess.Popen[bytes]:
    """Begin, or go on, in a session of its own, so that a kill reaches its workers too."""
    resume = ["--resume"] if case.trains and (out / "run.json").is_file() else []
    with log_path(out).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, *case.words, "--out", str(out), *resume],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
            start_new_session=True,
        )


def undisturbed(case: Case, out: Path) -> Course:
    """Run from beginning to end, and look when what happens."""
    course, began = Course(), time.monotonic()
    process = start(case, out)
    while process.poll() is None:
        now = time.monotonic() - began
        assert now < PATIENCE, log_of(out)
        with contextlib.suppress(OSError):  # files come and go
            there = [path for path in out.rglob("*") if path.is_file()]
            course.size = max(course.size, sum(path.stat().st_size for path in there))
            names = [path.name for path in checkpoints(out)]
            if there:
                course.seconds.setdefault("first file", now)
            if names and names[-1] not in course.steps:
                course.steps.append(names[-1])
                course.seconds["last checkpoint"] = now
            if (out / "metrics.json").is_file():
                course.seconds.setdefault("numbers", now)
        time.sleep(0.02)
    course.seconds["end"] = time.monotonic() - began
    assert process.returncode == 0, log_of(out)
    course.outcome = case.outcome(out)
    return course


def log_path(out: Path) -> Path:
    """Beside the disk that may be full."""
    return out.parent.with_suffix(".txt")


def log_of(out: Path) -> str:
    return log_path(out).read_text(errors="replace")


def kill_once(case: Case, out: Path, course: Course, phase: str, how: int | str, draw: random.Random) -> Kill | None:
    """Start it, and end it in a phase; None if it came to its end before."""
    if how == FULL_DISK:
        used = shutil.disk_usage(out.parent).used  # by what an earlier start left: no disk shrinks below it
        _resize(out.parent, used + int(max(0, course.size - used) * draw.uniform(0.1, 0.9)))
        process = start(case, out)
        code = process.wait(PATIENCE)
        _resize(out.parent, 2**30)
        if code == 0:
            return None
        told = log_of(out).strip()
        right = code == 2 and "No space left" in told.splitlines()[-1] and "Traceback" not in told
        return Kill(FULL_DISK, phase, code, "" if right else told[-500:] or "nothing was told")
    began = time.time_ns()
    process = start(case, out)
    assert isinstance(how, int)
    if not _reached(phase, process, out, course, draw, began):
        return None
    with contextlib.suppress(ProcessLookupError):
        # SIGTERM reaches the process; Ctrl-C in a terminal, and a machine that dies, its workers too.
        (os.kill if how == signal.SIGTERM else os.killpg)(process.pid, how)
    code = process.wait(PATIENCE)
    if code == 0:
        return None
    told = log_of(out)
    # The signal itself ends Python before it has begun with the command, and when that is done.
    right = code in (-how, 128 + how) and "Traceback" not in told
    return Kill(signal.Signals(how).name, phase, code, "" if right else told.strip()[-500:])


def _reached(
    phase: str, process: subprocess.Popen[bytes], out: Path, course: Course, draw: random.Random, began: int
) -> bool:
    """Wait for a moment in a phase of what was started at ``began`` (nanoseconds); False if it ended before."""
    seconds = course.seconds
    spans = {
        "import": (0.2, seconds["first file"]),
        "work": (seconds["first file"], seconds["end"]),
        "evaluation": (0.0, seconds.get("numbers", 0.0) - seconds.get("last checkpoint", 0.0)),
        "report": (0.0, seconds["end"] - seconds.get("numbers", 0.0)),
        "training": (0.0, 0.1),
        "checkpoint": (0.0, 0.0),
    }
    step = draw.choice(course.steps[:-1] or [""])
    signs: dict[str, Callable[[], bool]] = {
        "training": lambda: any(path.name >= step for path in checkpoints(out)),
        "checkpoint": lambda: any(path.name >= f".{step}" for path in (out / "checkpoints").glob(".step-*.part")),
        "evaluation": lambda: any(path.name == course.steps[-1] for path in checkpoints(out)),
        "report": (out / "metrics.json").is_file,
    }

    def is_there() -> bool:
        """Whether the sign is, and not of an earlier start: a run writes its settings anew whenever it goes on."""
        with contextlib.suppress(FileNotFoundError):
            return phase not in signs or ((out / "run.json").stat().st_mtime_ns > began and signs[phase]())
        return False

    pause, deadline = draw.uniform(*spans[phase]), time.monotonic() + PATIENCE
    while not is_there():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, log_of(out)
        time.sleep(0.0005)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(pause)
        return False
    return True


@contextlib.contextmanager
def disk(folder: Path) -> Iterator[bool]:
    """A disk in memory at ``folder``; False if none can be had, and it is a folder like others."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(folder)]
    root = hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("mount") is not None
    mounted = root and subprocess.run(command, check=False, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def _resize(folder: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def disturbed(
    case: Case, folder: Path, course: Course, kills: int, draw: random.Random
) -> tuple[list[Kill], list[str]]:
    """Kill a run so often, let it come to its end, and compare.

    Returns:
        The kills that came in time, and what differs.
    """
    phases = ["import", "training", "checkpoint", "evaluation", "report"] if case.trains else ["import", "work"]
    done: list[Kill] = []
    with disk(folder) as mounted:
        out = folder / "out"
        for phase in sorted((draw.choice(phases) for _ in range(kills)), key=phases.index):
            how = draw.choice([*SIGNALS, *([FULL_DISK] if mounted and phase in ("training", "work") else [])])
            kill = kill_once(case, out, course, phase, how, draw)
            done += [] if kill is None else [kill]
        process = start(case, out)
        code = process.wait(PATIENCE)
        if code:
            return done, [f"exit code {code}: {log_of(out).strip()[-500:]}"]
        wrong = differences(course.outcome, case.outcome(out))
        left = [path.name for path in out.rglob(".*") if path.name.endswith(".part") or path.name.startswith(".model-")]
        if left and not any(kill.how == "SIGKILL" for kill in done):
            wrong.append(f"left behind: {left}")
    return done, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kills", type=int, nargs="?", default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=(), help="names of commands")
    args = parser.parse_args()
    draw, done, faults, began = random.Random(args.seed), 0, 0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kill-and-resume-") as name:
        root = Path(name)
        chosen = [case for case in cases(root / "data") if not args.only or case.name in args.only]
        courses: dict[str, Course] = {}
        for number in range(2 * args.kills):  # some come too late
            if done >= args.kills:
                break
            case = chosen[number % len(chosen)]
            if case.name not in courses:
                (root / "whole").mkdir(exist_ok=True)
                courses[case.name] = undisturbed(case, root / "whole" / case.name)
            folder, kills = root / f"{number}", min(KILLS_IN_A_RUN, args.kills - done)
            made, wrong = disturbed(case, folder, courses[case.name], kills, draw)
            for kill in made:
                done += 1
                told = kill.fault or "in good order"
                print(f"{done:3}  {case.name:15} {kill.how:10} {kill.when:11} exit {kill.code:4}  {told}")
            faults += len(wrong) + sum(bool(kill.fault) for kill in made)
            outcome = ", ".join(wrong) or "the same to the last bit"
            print(f"     {case.name:15} {len(made)} of {kills} in time: {outcome}", flush=True)
    print(f"{done} kills, {faults} faults, {time.monotonic() - began:,.0f} s")
    return int(faults > 0 or done < args.kills)


if __name__ == "__main__":
    sys.exit(main())
