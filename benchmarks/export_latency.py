"""How long exported models take, beside PyTorch's eager mode, plain and fused; each is checked before it is timed.

``keep-ops`` is a ``.pt2`` that calls our operations by name.

    python benchmarks/export_latency.py --out docs/results/speed/export_latency.json

Random weights, all of which matter. Everything runs in turn (A B A B) on the same photographs, on a CPU, at the three
sizes and two batches that are checked; medians and quartiles of `--rounds`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from timm.utils import reparameterize_model
from torch import Tensor, nn

from convneur.bench import freed_memory_kept, inference_step, times_in_turn
from convneur.bench.throughput import spread
from convneur.data.photos import SAMPLES, sample_image
from convneur.data.transforms import Preprocessing
from convneur.export import (
    FORMATS,
    ExportMetadata,
    Runtime,
    agreement,
    export_model,
    load_exported,
    require_agreement,
    untrained,
)
from convneur.export.check import photo_batches, sizes_to_check
from convneur.export.formats import Format
from convneur.models import VARIANTS, Loaded
from convneur.reports.page import versions

KEEP_OPS = "keep-ops"


def exported(loaded: Loaded, formats: list[str], folder: Path) -> dict[str, Runtime]:
    """The model in its runtimes, by format."""
    found = {}
    for name in formats:
        path = folder / f"{name}{format_of(name).suffix}"
        files = export_model(loaded.model, path, ExportMetadata(loaded.config), keep_ops=name == KEEP_OPS)
        found[name] = load_exported(files[-1], trust=True).model
    return found


def measure(models: dict[str, nn.Module], images: Tensor, rounds: int) -> dict[str, dict]:
    """Per model its difference from the first one, and milliseconds: median, first and third quartile."""
    agrees = {name: agreement(models["eager"], model, images) for name, model in models.items()}
    for each in agrees.values():
        require_agreement(each)
    steps = {name: inference_step(model, images) for name, model in models.items()}
    return {
        name: {"difference": agrees[name].difference, "milliseconds": [1e3 * value for value in spread(seconds)]}
        for name, seconds in times_in_turn(steps, torch.device("cpu"), rounds).items()
    }


def format_of(name: str) -> Format:
    return FORMATS["torch" if name == KEEP_OPS else name]


def available(name: str) -> bool:
    try:
        format_of(name).require()
    except ImportError as error:
        print(f"left out: {error}", flush=True)
        return False
    return True


@freed_memory_kept()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--formats", nargs="+", choices=[*FORMATS, KEEP_OPS], default=[*FORMATS, KEEP_OPS])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    formats = [name for name in options.formats if available(name)]
    columns = ["eager", "fused", *formats]
    photos = [sample_image(name) for name in SAMPLES]
    rows = []
    print(f"| model, px, batch | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}", flush=True)
    for name in options.models:
        loaded = untrained(name)
        with TemporaryDirectory() as folder:
            runtimes = exported(loaded, formats, Path(folder))
            models = {"eager": loaded.model, "fused": reparameterize_model(loaded.model), **runtimes}
            sizes = sizes_to_check(runtimes[formats[0]].pretrained_cfg)
            for images in photo_batches(photos, Preprocessing.of(loaded.config), sizes):
                found = measure(models, images, options.rounds)
                batch, _, height, width = images.shape
                rows.append({"model": name, "size": [height, width], "batch": batch, "found": found})
                cells = ("{:.1f} ({:.1f} to {:.1f})".format(*found[column]["milliseconds"]) for column in columns)
                print(f"| {name}, {height} x {width}, {batch} | {' | '.join(cells)} |", flush=True)
    if options.out is not None:
        facts = {"threads": options.threads, "rounds": options.rounds, "versions": versions()}
        options.out.write_text(json.dumps(facts | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
