"""``convneur bench``: how fast models are on this machine, side by side."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

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


def bench(
    what: Annotated[Literal["latency", "scaling", "profile"], tyro.conf.Positional] = "latency",
    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL ...]")] = (),
    models: tuple[str, ...] = (),
    sizes: tuple[int, ...] | None = None,
    batches: tuple[int, ...] | None = None,
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
    compile: bool = False,
    training: bool = False,
    channels_last: bool = False,
    fused: bool = False,
    by_stage: bool = False,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    heap: Literal["kept", "default"] = "kept",
    rounds: int = 15,
    out: Path = Path("runs/bench"),
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False,
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Time models in turn (A B A B) and write a table, a picture, CSV and JSON.

    Leave the machine alone meanwhile: what else runs shows in the spread, which is that of the quartiles.

    Args:
        what: latency: of each model at each size and batch. scaling: how time and memory grow with the pixels. profile:
            where the time of inference goes, part by part.
        names: Models, instead of --models.
        models: Names of timm models, ours among them. convneur_m1/linear, /mlp, /published, /titans and /local are
            forms of ours: the linear memory, the two-layer memory, the paper's, that of titans-pytorch in its place,
            and none. If not given, the four variants and their baselines; for a profile convneur_m3 and its baseline.
        sizes: Pixels a side; 224 if not given, and 224 to 2048 for scaling.
        batches: Images at a time; 1 and 8 if not given, and 1 for scaling and profile.
        dtype: Of weights and images.
        compile: Through torch.compile; the first run of each is not timed.
        training: Forward, backward and AdamW instead of inference.
        channels_last: Memory format of weights and images.
        fused: As timm's reparameterize_model makes them: local branches of ours with prepacked weights.
        by_stage: Show the parts of a profile stage by stage.
        device: cpu, cuda, mps, or auto for what there is.
        heap: kept: the C library keeps what is freed (glibc), so that no model pays for pages that another gave back.
            default: as the C library has it; times then depend on what else is measured.
        rounds: Turns of each model.
        out: Folder for what is written.
        json_: Print the JSON, too.
        overwrite: Replace what an earlier call wrote to --out; without it, results of other settings are refused.
    """
    from convneur.notes import AlreadyDone
    from convneur.outputs import OutputFolder
    from convneur.printing import Console, Progress

    console = Console(stderr=True)
    with console.status("Loading PyTorch"):
        import torch

        from convneur.bench import figures, freed_memory_kept, latency, parts
        from convneur.bench import tables as bench_tables
        from convneur.bench.floor import measured_rates
        from convneur.devices import device_for
        from convneur.files import replace_file, write_atomic
        from convneur.json_files import read_json
        from convneur.ops import OPERATIONS
        from convneur.printing import print_json
        from convneur.reports.page import versions

    models = (*names, *models) or MODELS[what]
    for name in models:
        with torch.device("meta"):
            latency.build(name)  # what cannot be made is better known now
    if rounds < 1 or min(sizes or (32,)) < 32 or min(batches or (1,)) < 1:
        raise ValueError("--rounds and --batches must be 1 or more, and --sizes 32 or more")
    if device in ("cuda", "mps") and not getattr(torch, device).is_available():
        raise ValueError(f"there is no {device} device here; leave --device at auto")
    if fused and training:
        raise ValueError("a fused model cannot be trained; leave --fused or --training out")
    if what == "profile" and (training or compile):
        raise ValueError("a profile is of inference, not compiled; leave --training and --compile out")
    made_from = {
        "model_list": models,
        "size_list": sizes,
        "batch_list": batches,
        "mode": [dtype, compile, training, channels_last, fused, by_stage, heap, rounds],
        "device": device,
    }
    with OutputFolder(out, "bench", overwrite, what) as folder:
        try:
            folder.check(made_from)
        except AlreadyDone:
            if json_:
                print_json(read_json(out / f"{what}.json", "add --overwrite to make it again"), indent=1)
            raise
        place = device_for(device)
        with freed_memory_kept() if heap == "kept" else nullcontext(False) as heap_kept:
            facts: dict[str, Any] = {
                "what": what,
                "dtype": dtype,
                "compile": compile,
                "training": training,
                "channels_last": channels_last,
                "fused": fused,
                "device": str(place),
                "threads": torch.get_num_threads(),
                "rounds": rounds,
                "heap_kept": heap_kept,
                "kernels": all(each.unavailable() is None for each in OPERATIONS),
                "versions": versions(),
            }
            rates = None
            if what != "profile":
                with console.status("Measuring what the machine can do"):
                    rates = measured_rates(place, latency.DTYPES[dtype])
                facts["rates"] = asdict(rates)
            settings = [
                latency.Setting(size, batch, dtype, compile, training, channels_last, fused)
                for size in sizes or SIZES[what]
                for batch in batches or BATCHES[what]
            ]
            found: list[latency.Latency] = []
            profiles: list[parts.Profile] = []
            not_run: list[dict[str, Any]] = []
            with Progress(console=console, transient=True) as progress:
                task = progress.add_task("Timing", total=len(settings))
                for setting in settings:
                    progress.update(task, description=f"{setting.size} px, batch {setting.batch}")
                    if what == "profile":
                        profiles += parts.measure_parts(models, setting, place, rounds)
                    else:
                        reasons: dict[str, str] = {}
                        found += latency.measure(models, setting, place, rates, rounds, reasons)
                        not_run += [
                            {"model": name, "size": setting.size, "batch": setting.batch, "reason": reason}
                            for name, reason in reasons.items()
                        ]
                    progress.advance(task)
        if not found and not profiles:
            raise ValueError(f"no model could be run; {not_run[0]['model']}: {not_run[0]['reason']}")
        if what == "profile":
            facts["profiles"] = [asdict(profile) for profile in profiles]
            text, drawn = parts.as_csv(profiles), figures.profiles(profiles)
            tables = list(bench_tables.profiles(profiles, by_stage))
        else:
            facts["exponents"], facts["peak_exponents"] = (
                latency.exponents(found, of) if what == "scaling" else {} for of in ("seconds", "peak_bytes")
            )
            facts |= {"measurements": [asdict(row) for row in found], "not_run": not_run}
            both = facts["exponents"], facts["peak_exponents"]
            text = latency.as_csv(found)
            drawn = figures.scaling(found, *both) if what == "scaling" else figures.latencies(found)
            tables = [bench_tables.latencies(found, *both)]
        written = json.dumps(facts, indent=1)
        path = out / f"{what}.json"
        folder.start()
        write_atomic(path, written + "\n")
        write_atomic(path.with_suffix(".csv"), text)
        with replace_file(path.with_suffix(".png")) as fresh:
            drawn.savefig(fresh, dpi=130)
        folder.finish()
        if json_:
            print_json(facts, indent=1)
        for table in tables:
            console.print(table)
        for each in not_run:
            console.print(f"Not run: {each['model']}, {each['size']} px, batch {each['batch']}: {each['reason']}")
        console.print(f"Picture: {path.with_suffix('.png')}   CSV: {path.with_suffix('.csv')}   numbers: {path}")
