"""What inference on a CPU gains by tiles of the hidden map in kept memory, and by a written-out RMSNorm.

    python benchmarks/inference_cpu.py --out docs/results/speed/inference_cpu.json

All forms run in turn (A B A B) on the same model and images.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import timm
import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

import convneur  # noqa: F401  registers the models
from convneur.bench import inference_step, times_in_turn
from convneur.bench.throughput import spread
from convneur.explain.report import versions
from convneur.layers import block
from convneur.memory import RMSNorm, neural_memory, norm


def modules(x: Tensor, before: nn.Module, mlp: Mlp) -> Tensor:
    return mlp(before(x))


def torch_norms(x: Tensor, *norms: RMSNorm) -> list[Tensor]:
    return [F.rms_norm(x, each.normalized_shape, each.weight, each.EPS) for each in norms]


WHOLE_MAPS = patch.object(block, "norm_mlp", modules)
TORCH_NORM = [patch.object(module, "rms_norms", torch_norms) for module in (norm, neural_memory)]
FORMS = {
    "plain modules": (WHOLE_MAPS, *TORCH_NORM),
    "and RMSNorm written out": (WHOLE_MAPS,),
    "and in tiles": (),
}


def under(patches: tuple, step: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        with ExitStack() as stack:
            for each in patches:
                stack.enter_context(each)
            step()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=[f"convneur_m{number}" for number in (1, 2, 3, 4)])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    print(f"| model, batch | {' | '.join(FORMS)} |\n|{'---|' * (1 + len(FORMS))}")
    for name in options.models:
        model = timm.create_model(name)
        for batch in options.batches:
            step = inference_step(model, torch.randn(batch, 3, 224, 224))
            steps = {form: under(patches, step) for form, patches in FORMS.items()}
            found = {}
            for form, seconds in times_in_turn(steps, torch.device("cpu"), options.rounds).items():
                found[form] = [1e3 * value for value in spread(seconds)]
            rows.append({"model": name, "batch": batch, "milliseconds": found})
            cells = [f"{middle:.1f} ({low:.1f} to {high:.1f})" for middle, low, high in found.values()]
            print(f"| {name}, {batch} | {' | '.join(cells)} |", flush=True)
    facts = {"threads": torch.get_num_threads(), "versions": versions()}
    if options.out is not None:
        options.out.write_text(json.dumps(facts | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
