"""The whole of a measurement: models in turn, and a table, a picture, CSV and JSON of what they took."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from convneur.bench import figures, latency, parts, tables
from convneur.bench.floor import measured_rates
from convneur.bench.memory import freed_memory_kept
from convneur.explain.report import versions
from convneur.files import StrPath, replace_file, write_atomic
from convneur.json_files import read_json
from convneur.ops import OPERATIONS
from convneur.outputs import OutputFolder
from convneur.printing import Console, Progress, Table, status
from convneur.tasks.evaluation import device_for
from convneur_options.bench import DEFAULTS, BenchConfig, What

PAIRS = tuple(
    name
    for pair in zip(
        (f"convneur_m{number}" for number in (1, 2, 3, 4)),
        ("convnext_atto", "convnext_femto", "convnext_pico", "convnext_nano"),
        strict=True,
    )
    for name in pair
)
MODELS = {"latency": PAIRS, "scaling": PAIRS, "profile": ("convneur_m3", "convnext_pico")}
SIZES = {"latency": (224,), "scaling": (224, 320, 448, 640, 896, 1280, 2048), "profile": (224,)}
BATCHES = {"latency": (1, 8), "scaling": (1,), "profile": (1,)}


@dataclass
class BenchResult:
    """What was measured.

    Attributes:
        what: Was asked.
        config: How.
        json: The file of ``facts``; the picture and CSV are beside it.
        facts: All numbers, and how they came about.
        latencies: Of each model at each setting; none of a profile.
        profiles: Of each model at each setting, of a profile.
        not_run: Models that could not be run: ``model``, ``size``, ``batch`` and ``reason``.
    """

    what: What
    config: BenchConfig
    json: Path
    facts: dict[str, Any]
    latencies: list[latency.Latency] = field(default_factory=list)
    profiles: list[parts.Profile] = field(default_factory=list)
    not_run: list[dict[str, Any]] = field(default_factory=list)

    @property
    def picture(self) -> Path:
        """The file of the picture."""
        return self.json.with_suffix(".png")

    @property
    def csv(self) -> Path:
        """The file with a line per measurement."""
        return self.json.with_suffix(".csv")

    def tables(self) -> Iterable[Table]:
        """What a terminal shows."""
        if self.what == "profile":
            return tables.profiles(self.profiles, self.config.by_stage)
        return [tables.latencies(self.latencies, self.facts["exponents"], self.facts["peak_exponents"])]


def run_bench(
    what: What = "latency",
    config: BenchConfig = DEFAULTS,
    out: StrPath = "runs/bench",
    overwrite: bool = False,
    progress: bool = True,
) -> BenchResult:
    """Time models in turn (A B A B), and write ``WHAT.json``, ``.csv`` and ``.png``.

    Args:
        what: ``latency``: of each model at each size and batch. ``scaling``: how time and memory grow with the pixels.
            ``profile``: where the time of inference goes, part by part.
        config: Which models, and how.
        out: Folder.
        overwrite: Replace what an earlier call with other settings wrote.
        progress: Show a bar on the terminal.

    Raises:
        AlreadyDone: If an earlier call with the same settings wrote all of it; see `read_bench`.
        ValueError: For models or settings that cannot be, or if no model could be run.
        FileExistsError: If the folder holds something else.
    """
    out, models = Path(out), config.models or MODELS[what]
    for name in models:
        with torch.device("meta"):
            latency.build(name)  # what cannot be made is better known now
    config.check(what)
    if config.device in ("cuda", "mps") and not getattr(torch, config.device).is_available():
        raise ValueError(f"there is no {config.device} device here; leave --device at auto")
    how = asdict(config)
    made_from = {
        "model_list": models,
        "size_list": config.sizes,
        "batch_list": config.batches,
        "mode": [how[name] for name in ("dtype", "compile", "training", "channels_last", "fused")]
        + [config.by_stage, config.heap, config.rounds],
        "device": config.device,
    }
    with OutputFolder(out, "bench", overwrite, what) as folder:
        folder.check(made_from)
        found = _measured(what, replace(config, models=models), out / f"{what}.json", progress)
        if not found.latencies and not found.profiles:
            first = found.not_run[0]
            raise ValueError(f"no model could be run; {first['model']}: {first['reason']}")
        facts = found.facts
        if what == "profile":
            facts["profiles"] = [asdict(profile) for profile in found.profiles]
            text, drawn = parts.as_csv(found.profiles), figures.profiles(found.profiles)
        else:
            both = [
                latency.exponents(found.latencies, of) if what == "scaling" else {} for of in ("seconds", "peak_bytes")
            ]
            facts |= {"exponents": both[0], "peak_exponents": both[1]}
            facts |= {"measurements": [asdict(row) for row in found.latencies], "not_run": found.not_run}
            text = latency.as_csv(found.latencies)
            drawn = figures.scaling(found.latencies, *both) if what == "scaling" else figures.latencies(found.latencies)
        written = json.dumps(facts, indent=1)
        folder.start()
        write_atomic(found.json, written + "\n")
        write_atomic(found.csv, text)
        with replace_file(found.picture) as fresh:
            drawn.savefig(fresh, dpi=130)
        folder.finish()
    return found


def read_bench(what: What, out: StrPath = "runs/bench") -> dict[str, Any]:
    """The numbers that `run_bench` wrote."""
    return read_json(Path(out) / f"{what}.json", "add --overwrite to make it again")


def _measured(what: What, config: BenchConfig, path: Path, progress: bool) -> BenchResult:
    """Measure, and write nothing yet."""
    place = device_for(config.device)
    with freed_memory_kept() if config.heap == "kept" else nullcontext(False) as heap_kept:
        facts: dict[str, Any] = {
            "what": what,
            "dtype": config.dtype,
            "compile": config.compile,
            "training": config.training,
            "channels_last": config.channels_last,
            "fused": config.fused,
            "device": str(place),
            "threads": torch.get_num_threads(),
            "rounds": config.rounds,
            "heap_kept": heap_kept,
            "kernels": all(each.unavailable() is None for each in OPERATIONS),
            "versions": versions(),
        }
        found, rates = BenchResult(what, config, path, facts), None
        if what != "profile":
            with status("Measuring what the machine can do", progress):
                rates = measured_rates(place, latency.DTYPES[config.dtype])
            facts["rates"] = asdict(rates)
        settings = [
            latency.Setting(
                size, batch, config.dtype, config.compile, config.training, config.channels_last, config.fused
            )
            for size in config.sizes or SIZES[what]
            for batch in config.batches or BATCHES[what]
        ]
        with Progress(console=Console(stderr=True), transient=True, disable=not progress) as bar:
            task = bar.add_task("Timing", total=len(settings))
            for setting in settings:
                bar.update(task, description=f"{setting.size} px, batch {setting.batch}")
                if what == "profile":
                    found.profiles += parts.measure_parts(config.models, setting, place, config.rounds)
                else:
                    reasons: dict[str, str] = {}
                    found.latencies += latency.measure(config.models, setting, place, rates, config.rounds, reasons)
                    found.not_run += [
                        {"model": name, "size": setting.size, "batch": setting.batch, "reason": reason}
                        for name, reason in reasons.items()
                    ]
                bar.advance(task)
    return found
