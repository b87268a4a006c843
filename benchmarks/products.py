"""What a model gains by oneDNN's products instead of MKL's, by a memory folded at each call, and by `fuse()`.

    python benchmarks/products.py --out docs/results/speed/products.json

All forms run in turn (A B A B) on the same model and images. `--profile` says where the time goes in each, instead.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import timm
import torch

import convneur  # noqa: F401  registers the models
from convneur.bench import freed_memory_kept, inference_step, times_in_turn, training_step
from convneur.bench.latency import Setting
from convneur.bench.parts import measure_parts
from convneur.bench.throughput import spread
from convneur.explain.report import versions
from convneur.layers import global_branch
from convneur.memory import products

TORCH_PRODUCTS = patch.object(products, "ONEDNN_AVAILABLE", False)
PART_BY_PART = patch.object(global_branch, "maps_of", lambda *_: None)
FORMS = {
    "torch's linear maps": (TORCH_PRODUCTS, PART_BY_PART),
    "by oneDNN": (PART_BY_PART,),
    "and the memory folded": (),
}
FUSED = "and fused"


def under(patches: tuple, step: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        with ExitStack() as stack:
            for each in patches:
                stack.enter_context(each)
            step()

    return run


def profiles(name: str, batch: int, size: int, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each part, by form."""
    found = {}
    for form in (*FORMS, FUSED):
        with ExitStack() as stack:
            for each in FORMS.get(form, ()):
                stack.enter_context(each)
            setting = Setting(size, batch, fused=form == FUSED)
            (profile,) = measure_parts([name], setting, torch.device("cpu"), rounds)
        found[form] = {part.part: 1e3 * part.seconds for part in profile.parts} | {"all": 1e3 * profile.watched}
    return found


@freed_memory_kept()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=[f"convneur_m{number}" for number in (1, 2, 3, 4)])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--training", action="store_true", help="a training step; nothing is fused then")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    make = training_step if options.training else inference_step
    rows = []
    names = [*FORMS, *(() if options.training else (FUSED,))]
    print(f"| milliseconds | {' | '.join(names)} |\n|{'---|' * (1 + len(names))}")
    for name in options.models:
        model = timm.create_model(name).eval()
        fused = copy.deepcopy(model).fuse()
        for batch in options.batches:
            if options.profile:
                parts = profiles(name, batch, options.size, options.rounds)
                rows.append({"model": name, "batch": batch, "size": options.size, "parts": parts})
                for part in parts[FUSED]:
                    cells = [f"{found[part]:.2f}" for found in parts.values()]
                    print(f"| {name}, batch {batch}: {part} | {' | '.join(cells)} |", flush=True)
                continue
            images = torch.randn(batch, 3, options.size, options.size)
            steps = {form: under(patches, make(model, images)) for form, patches in FORMS.items()}
            if not options.training:
                steps[FUSED] = make(fused, images)
            found = {}
            for form, seconds in times_in_turn(steps, torch.device("cpu"), options.rounds).items():
                found[form] = [1e3 * value for value in spread(seconds)]
            rows.append({"model": name, "batch": batch, "size": options.size, "milliseconds": found})
            cells = [f"{middle:.1f} ({low:.1f} to {high:.1f})" for middle, low, high in found.values()]
            print(f"| {name}, batch {batch} | {' | '.join(cells)} |", flush=True)
    facts = {"training": options.training, "threads": torch.get_num_threads(), "versions": versions()}
    if options.out is not None:
        options.out.write_text(json.dumps(facts | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
