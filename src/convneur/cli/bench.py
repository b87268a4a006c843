"""``convneur bench``: how fast models are on this machine, side by side."""

from __future__ import annotations

import json
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
SIZES = {"latency": (224,), "scaling": (224, 320, 448, 640, 896, 1280, 2048)}
BATCHES = {"latency": (1, 8), "scaling": (1,)}


def bench(
    what: Annotated[Literal["latency", "scaling"], tyro.conf.Positional] = "latency",
    models: tuple[str, ...] = PAIRS,
    sizes: tuple[int, ...] | None = None,
    batches: tuple[int, ...] | None = None,
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
    compile: bool = False,
    training: bool = False,
    channels_last: bool = False,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    rounds: int = 15,
    out: Path = Path("runs/bench"),
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Time models in turn (A B A B) and write a table, a picture, CSV and JSON.

    Leave the machine alone meanwhile: what else runs shows in the spread, which is that of the quartiles.

    Args:
        what: latency: of each model at each size and batch. scaling: how time grows with the pixels.
        models: Names of timm models, ours among them. convneur_m1/mlp, /published, /titans and /local are forms of
            ours: the two-layer memory, the paper's memory, that of titans-pytorch in its place, and none.
        sizes: Pixels a side; 224 if not given, and 224 to 2048 for scaling.
        batches: Images at a time; 1 and 8 if not given, and 1 for scaling.
        dtype: Of weights and images.
        compile: Through torch.compile; the first run of each is not timed.
        training: Forward, backward and AdamW instead of inference.
        channels_last: Memory format of weights and images.
        device: cpu, cuda, mps, or auto for what there is.
        rounds: Turns of each model.
        out: Folder for what is written.
        json_: Print the JSON, too.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with console.status("Loading PyTorch"):
        import torch

        from convneur.bench import figures, latency
        from convneur.bench.floor import measured_rates
        from convneur.explain.report import versions
        from convneur.files import write_atomic
        from convneur.tasks.evaluation import device_for

    for name in models:
        with torch.device("meta"):
            latency.build(name)  # what cannot be made is better known now
    if rounds < 1 or min(sizes or (32,)) < 32 or min(batches or (1,)) < 1:
        raise ValueError("--rounds and --batches must be 1 or more, and --sizes 32 or more")
    if device in ("cuda", "mps") and not getattr(torch, device).is_available():
        raise ValueError(f"there is no {device} device here; leave --device at auto")
    place = device_for(device)
    with console.status("Measuring what the machine can do"):
        rates = measured_rates(place, latency.DTYPES[dtype])
    settings = [
        latency.Setting(size, batch, dtype, compile, training, channels_last)
        for size in sizes or SIZES[what]
        for batch in batches or BATCHES[what]
    ]
    found: list[latency.Latency] = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("Timing", total=len(settings))
        for setting in settings:
            progress.update(task, description=f"{setting.size} px, batch {setting.batch}")
            found += latency.measure(models, setting, place, rates, rounds)
            progress.advance(task)
    slopes = latency.exponents(found) if what == "scaling" else {}
    facts: dict[str, Any] = {
        "what": what,
        "dtype": dtype,
        "compile": compile,
        "training": training,
        "channels_last": channels_last,
        "device": str(place),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "rates": asdict(rates),
        "versions": versions(),
    }
    written = json.dumps(facts | {"exponents": slopes, "measurements": [asdict(row) for row in found]}, indent=1)
    path = out / f"{what}.json"
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(path, written + "\n")
    write_atomic(path.with_suffix(".csv"), latency.as_csv(found))
    drawn = figures.scaling(found, slopes) if what == "scaling" else figures.latencies(found)
    drawn.savefig(path.with_suffix(".png"), dpi=130)
    if json_:
        print(written)  # noqa: T201  for other programs
    console.print(_table(found, slopes))
    console.print(f"Picture: {path.with_suffix('.png')}   CSV: {path.with_suffix('.csv')}   numbers: {path}")


def _table(found: Any, slopes: dict[str, float]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("model", "px", "batch", "ms", "quartiles", "img/s", "/ twin", "quartiles", "floor"):
        table.add_column(heading, justify="left" if heading == "model" else "right", no_wrap=True)
    for row in found:
        over = (
            ("", "")
            if row.over_twin is None
            else (f"{row.over_twin:.3f}", _between(row.over_twin_low, row.over_twin_high, 2))
        )
        table.add_row(
            row.model,
            str(row.size),
            str(row.batch),
            f"{1e3 * row.seconds:.1f}",
            _between(1e3 * row.seconds_low, 1e3 * row.seconds_high, 1),
            f"{row.images_per_second:.0f}",
            *over,
            "" if row.floor is None else f"{1e3 * row.floor:.1f}",
        )
    notes = [f"{name}: time grows with the pixels to the power of {slope:.3f}" for name, slope in slopes.items()]
    table.caption = "\n".join(
        [
            "/ twin: over the same model without a global branch",
            "floor: ms of its dense operations at the rates this machine showed",
            *notes,
        ]
    )
    return table


def _between(low: float, high: float, digits: int) -> str:
    return f"{low:.{digits}f}-{high:.{digits}f}"
