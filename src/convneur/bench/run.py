"""The whole of a measurement: models in turn, and a table, a picture, CSV and JSON of what they took."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from convneur.bench import figures, latency, parts, tables
from convneur.bench.memory import freed_memory_kept
from convneur.bench.roofline import measured_rates
from convneur.devices import device_for
from convneur.files import StrPath, replace_file, write_atomic
from convneur.json_files import read_json
from convneur.models import VARIANTS
from convneur.ops import OPERATIONS
from convneur.outputs import OutputFolder
from convneur.printing import Console, Progress, Table, status
from convneur.python_calls import python_call
from convneur.reports.page import versions
from convneur_options.bench import DEFAULTS, BenchConfig, What
from convneur_options.typed import typed

PAIRS = tuple(name for variant, config in VARIANTS.items() for name in (variant, config.baseline))
MODELS = {"latency": PAIRS, "scaling": PAIRS, "profile": ("convneur_m3", "convnext_pico")}
SIZES = {"latency": (224,), "scaling": (224, 320, 448, 640, 896, 1280, 2048), "profile": (224,)}
BATCHES = {"latency": (1, 8), "scaling": (1,), "profile": (1,)}


@dataclass(frozen=True)
class BenchResult:
    """What was measured.

    Attributes:
        path: The JSON file of ``facts``; ``.csv`` and ``.png`` are beside it.
        facts: All numbers and how they came about; in ``not_run``, models that could not be run.
        tables: What a terminal shows.
    """

    path: Path
    facts: dict[str, Any]
    tables: list[Table]


@python_call()
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
    config = typed(config)
    out, models = Path(out), config.models or MODELS[what]
    for name in models:
        with torch.device("meta"):
            latency.build(name)  # what cannot be made is better known now
    config.check(what)
    if config.device in ("cuda", "mps") and not getattr(torch, config.device).is_available():
        raise ValueError(f"there is no {config.device} device here; leave --device at auto")
    how = config.how()
    made_from = {
        "model_list": models,
        "size_list": config.sizes,
        "batch_list": config.batches,
        "mode": [*how.values(), config.by_stage, config.heap, config.rounds],
        "device": config.device,
    }
    with OutputFolder(out, "bench", overwrite, what) as folder:
        folder.check(made_from)
        place = device_for(config.device)
        with freed_memory_kept() if config.heap == "kept" else nullcontext(False) as heap_kept:
            facts: dict[str, Any] = {"what": what, **how, "device": str(place), "threads": torch.get_num_threads()}
            facts |= {
                "rounds": config.rounds,
                "heap_kept": heap_kept,
                "kernels": all(each.unavailable() is None for each in OPERATIONS),
                "versions": versions(),
            }
            rates = None
            if what != "profile":
                with status("Measuring what the machine can do", progress):
                    rates = measured_rates(place, latency.DTYPES[config.dtype])
                facts["rates"] = asdict(rates)
            found: list[latency.Latency] = []
            profiles: list[parts.Profile] = []
            not_run: list[dict[str, Any]] = []
            settings = list(product(config.sizes or SIZES[what], config.batches or BATCHES[what]))
            with Progress(console=Console(stderr=True), transient=True, disable=not progress) as bar:
                task = bar.add_task("Timing", total=len(settings))
                for size, batch in settings:
                    bar.update(task, description=f"{size} px, batch {batch}")
                    setting, reasons = latency.Setting(size, batch, **how), dict[str, str]()
                    if what == "profile":
                        profiles += parts.measure_parts(models, setting, place, config.rounds)
                    else:
                        found += latency.measure(models, setting, place, rates, config.rounds, reasons)
                    for name, reason in reasons.items():
                        not_run.append({"model": name, "size": size, "batch": batch, "reason": reason})
                    bar.advance(task)
        if not found and not profiles:
            raise ValueError(f"no model could be run; {not_run[0]['model']}: {not_run[0]['reason']}")
        if what == "profile":
            facts["profiles"] = [asdict(profile) for profile in profiles]
            text, drawn = parts.as_csv(profiles), figures.profiles(profiles)
            shown = list(tables.profiles(profiles, config.by_stage))
        else:
            both = [latency.exponents(found, of) if what == "scaling" else {} for of in ("seconds", "peak_bytes")]
            facts["exponents"], facts["peak_exponents"] = both
            facts |= {"measurements": [asdict(row) for row in found], "not_run": not_run}
            drawn = figures.scaling(found, *both) if what == "scaling" else figures.latencies(found)
            text, shown = latency.as_csv(found), [tables.latencies(found, *both)]
        path = out / f"{what}.json"
        written = json.dumps(facts, indent=1)
        folder.start()
        write_atomic(path, written + "\n")
        write_atomic(path.with_suffix(".csv"), text)
        with replace_file(path.with_suffix(".png")) as fresh:
            drawn.savefig(fresh, dpi=130)
        folder.finish()
    return BenchResult(path, facts, shown)


def read_bench(what: What, out: StrPath = "runs/bench") -> dict[str, Any]:
    """The numbers that `run_bench` wrote."""
    return read_json(Path(out) / f"{what}.json", "add --overwrite to make it again")
