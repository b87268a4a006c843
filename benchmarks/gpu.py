"""Acceptance on a GPU: every variant, its baseline and the same with the memory of titans-pytorch, eager and compiled.

    python benchmarks/gpu.py --out docs/results/speed/gpu
    python benchmarks/gpu.py --training --batches 64 256 --out docs/results/speed/gpu_training

writes gpu.json and gpu.md: bf16, channels_last, 224 px, batch 1, 64 and 256; models in turn (A B A B). What does not
run (no titans-pytorch, a model that does not compile, memory that does not suffice) is listed with the reason.

It has never run on a GPU; what is tested is the same code on a CPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from convneur.bench.latency import Setting, build, measure
from convneur.files import write_atomic
from convneur.models import VARIANTS
from convneur.reports.page import versions

MODELS = [name for variant, sizes in VARIANTS.items() for name in (variant, sizes.baseline, f"{variant}/titans")]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64, 256])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--training", action="store_true", help="forward, backward and AdamW instead of inference")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/gpu"), help="path of both files, less endings")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("gpu.py: there is no CUDA device here; run it where there is one, or 'convneur bench'", file=sys.stderr)
        return 2
    device = torch.device("cuda")
    facts = {"device": torch.cuda.get_device_name(device), "versions": versions(), "rounds": options.rounds}
    settings = [
        Setting(options.size, batch, "bf16", compile, options.training, channels_last=True)
        for compile in (False, True)
        for batch in options.batches
    ]
    run(options.models, settings, device, options.rounds, options.out, facts)
    return 0


def run(
    models: Sequence[str],
    settings: Sequence[Setting],
    device: torch.device,
    rounds: int,
    out: Path,
    facts: dict[str, Any],
) -> None:
    """Measure setting by setting; what is known is written after each."""
    built, reasons = [], {}
    for name in models:
        try:
            build(name)
            built.append(name)
        except ImportError as error:
            reasons[name] = str(error)
    rows: list[dict[str, Any]] = []
    missing: list[dict[str, Any]] = []
    out.parent.mkdir(parents=True, exist_ok=True)
    for setting in settings:
        not_run = dict(reasons)
        found = measure(built, setting, device, rounds=rounds, not_run=not_run)
        rows += [asdict(setting) | asdict(row) for row in found]
        missing += [asdict(setting) | {"model": name, "reason": reason} for name, reason in not_run.items()]
        numbers = facts | {"measurements": rows, "not_run": missing}
        write_atomic(out.with_suffix(".json"), json.dumps(numbers, indent=1) + "\n")
        write_atomic(out.with_suffix(".md"), markdown(rows, missing))
        print(f"batch {setting.batch}, {'compiled' if setting.compile else 'eager'}: {len(found)} models", flush=True)
    print(markdown(rows, missing))


def markdown(rows: Sequence[dict[str, Any]], missing: Sequence[dict[str, Any]]) -> str:
    """A table for eager and one for compiled models: milliseconds, over the baseline, peak memory, per batch size."""
    lines = []
    for compiled in (False, True):
        mine = {(row["model"], row["batch"]): row for row in rows if row["compile"] == compiled}
        if not mine:
            continue
        batches = list(dict.fromkeys(batch for _, batch in mine))
        kind = "compiled" if compiled else "eager"
        heads = [f"batch {batch}: ms | over its baseline | peak MB" for batch in batches]
        lines += [f"| {kind} | {' | '.join(heads)} |", "|---" * (1 + 3 * len(batches)) + "|"]
        for name in dict.fromkeys(name for name, _ in mine):
            cells = [_cells(mine.get((name, batch))) for batch in batches]
            lines.append(f"| `{name}` | {' | '.join(cells)} |")
        lines.append("")
    for each in missing:
        kind = "compiled" if each["compile"] else "eager"
        lines.append(f"* not run: `{each['model']}`, {kind}, batch {each['batch']}: {each['reason']}")
    return "\n".join(lines) + "\n"


def _cells(row: dict[str, Any] | None) -> str:
    if row is None:
        return "not run | | "
    over = "" if row["over_baseline"] is None else f"{row['over_baseline']:.3f}"
    if over:
        over += f" ({row['over_baseline_low']:.2f} to {row['over_baseline_high']:.2f})"
    times = [f"{1e3 * row[name]:.2f}" for name in ("seconds", "seconds_low", "seconds_high")]
    return f"{times[0]} ({times[1]} to {times[2]}) | {over} | {1e-6 * row['peak_bytes']:.0f}"


if __name__ == "__main__":
    sys.exit(main())
