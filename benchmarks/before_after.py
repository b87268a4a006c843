"""Two checkouts and the ConvNeXt baseline side by side: one worker process per checkout, all taking turns.

    git worktree add ../before REVISION && (cd ../before && python hatch_build.py)
    python benchmarks/before_after.py ../before . --out docs/results/speed/before_after.json

Every round times each model once, in turn, after one run that does not count. A cell is the median of ``--repeats``
runs of the whole table, each the median over ``--rounds`` rounds of the ratio to the baseline in that round. Kinds:
eager, fused, plain (eager without the C kernels), train (one step of AdamW at 224 px), train96 (at 96 px).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BASELINES = {
    "convneur_m1": "convnext_atto",
    "convneur_m2": "convnext_femto",
    "convneur_m3": "convnext_pico",
    "convneur_m4": "convnext_nano",
}
BATCHES = {"eager": (1, 8), "fused": (1, 8), "plain": (1, 8), "train": (8,), "train96": (16,)}


def step_of(name: str, kind: str, batch: int) -> Callable[[], object]:
    """What a worker times."""
    import timm
    import torch

    import convneur  # noqa: F401 - registers the models

    torch.manual_seed(0)
    model = timm.create_model(name)
    size = 96 if kind == "train96" else 224
    images = torch.randn(batch, 3, size, size)
    if kind.startswith("train"):
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            model(images).square().mean().backward()
            optimizer.step()

        return step
    model.eval()
    if kind == "fused":
        model = timm.utils.reparameterize_model(model)
    if kind == "plain":
        from convneur import ops

        for operation in ops.OPERATIONS:
            if operation is not ops.linear:  # oneDNN is PyTorch's
                operation.missing = "left out"

    def infer() -> None:
        with torch.inference_mode():
            model(images)

    return infer


def work(threads: int) -> None:
    """A worker: reads what to prepare, then times one step for each line."""
    import torch

    torch.set_num_threads(threads)
    steps: dict[str, Callable[[], object]] = {}
    for line in sys.stdin:
        job = json.loads(line)
        if "prepare" in job:
            steps.clear()
            for key, arguments in job["prepare"].items():
                steps[key] = step_of(*arguments)
            print(json.dumps("ready"), flush=True)
            continue
        step = steps[job["run"]]
        step()
        start = time.perf_counter()
        step()
        print(json.dumps(time.perf_counter() - start), flush=True)


class Worker:
    def __init__(self, checkout: Path, threads: int) -> None:
        environment = {**os.environ, "PYTHONPATH": str(checkout.resolve() / "src"), "OMP_NUM_THREADS": str(threads)}
        # glibc gives large blocks back at once, and a model would pay for the pages again at each step.
        environment |= {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--work", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ask(self, job: dict[str, Any]) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def measure(workers: dict[str, Worker], name: str, kind: str, batch: int, rounds: int) -> dict[str, float]:
    """Median seconds of the baseline, and median ratios to it in the same round."""
    turns = {
        "baseline": (workers["after"], (BASELINES[name], "eager" if kind in ("fused", "plain") else kind, batch)),
        "before": (workers["before"], (name, "eager" if kind == "plain" else kind, batch)),
        "after": (workers["plain" if kind == "plain" else "after"], (name, kind, batch)),
    }
    for worker in {id(worker): worker for worker, _ in turns.values()}.values():
        worker.ask({"prepare": {key: what for key, (each, what) in turns.items() if each is worker}})
    times: dict[str, list[float]] = {key: [] for key in turns}
    for _ in range(rounds):
        for key, (worker, _what) in turns.items():
            times[key].append(worker.ask({"run": key}))
    ratios = {
        key: statistics.median(t / base for t, base in zip(times[key], times["baseline"], strict=True))
        for key in ("before", "after")
    }
    return {"baseline_seconds": statistics.median(times["baseline"]), **ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--models", nargs="+", default=list(BASELINES))
    parser.add_argument("--kinds", nargs="+", default=list(BATCHES))
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    workers = {
        "before": Worker(given.before, given.threads),
        "after": Worker(given.after, given.threads),
        "plain": Worker(given.after, given.threads),
    }
    runs: dict[str, list[dict[str, float]]] = {}
    for _ in range(given.repeats):
        for kind in given.kinds:
            for name in given.models:
                for batch in BATCHES[kind]:
                    found = measure(workers, name, kind, batch, given.rounds)
                    runs.setdefault(f"{name} {kind} {batch}", []).append(found)
                    print(f"{name} {kind} {batch}: {found['before']:.3f} {found['after']:.3f}", flush=True)
    rows = {
        cell: {key: statistics.median(run[key] for run in each) for key in each[0]} | {"runs": each}
        for cell, each in runs.items()
    }
    print("\n| cell | baseline, ms | before | after |\n|---|---|---|---|")
    for cell, row in rows.items():
        print(f"| {cell} | {1e3 * row['baseline_seconds']:.1f} | {row['before']:.3f} | {row['after']:.3f} |")
    inference = [row for cell, row in rows.items() if cell.split()[1] in ("eager", "fused")]
    if inference:
        mean = statistics.geometric_mean(row["after"] / row["before"] for row in inference)
        print(f"geometric mean of after over before, eager and fused: {mean:.3f}")
    if given.out is not None:
        import platform

        import timm
        import torch

        facts = {
            "command": " ".join(["python", *sys.argv]),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "python": platform.python_version(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "threads": given.threads,
            "rounds": given.rounds,
            "repeats": given.repeats,
        }
        given.out.write_text(json.dumps(facts | {"cells": rows}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(int(sys.argv[2]))
    else:
        main()
