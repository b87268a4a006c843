"""How alike are the keys of one picture? Mean cosine between the keys of different tokens, with and without centring.

    python benchmarks/mosaic_keys.py --seeds 0 1 2 --out docs/results/mosaic_keys.json

The pictures and the model are those of `convneur demo --task mosaic`, the model as it is before the first step.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean

import torch
import torch.nn.functional as F

from convneur import create_model
from convneur.data.digits import load_digits
from convneur.lab.demo import MOSAIC
from convneur.lab.digit_mosaics import Mosaics
from convneur.layers import GlobalBranch


def cosines(seed: int, center_tokens: bool, images: torch.Tensor) -> list[float]:
    """Mean cosine of two keys of one picture, per stage."""
    torch.manual_seed(seed)
    model = create_model("convneur_m1", **MOSAIC.model, center_tokens=center_tokens).eval()
    branches = [module for module in model.modules() if isinstance(module, GlobalBranch)]
    keys: list[torch.Tensor] = []
    for branch in branches:
        branch.memory.to_keys.register_forward_hook(lambda _module, _inputs, output: keys.append(output))
    with torch.inference_mode():
        model(images)
    means = []
    for key in keys:
        unit = F.normalize(key, dim=-1)
        alike = unit @ unit.mT
        count = alike.shape[-1]
        means.append(((alike.sum((1, 2)) - count) / (count * (count - 1))).mean().item())
    return means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = {}
    images = next(iter(Mosaics(load_digits(16)[0], 16, 128, seed=0))).images
    for name, center in (("tokens as they come", False), ("centred", True)):
        found[name] = per_seed = [cosines(seed, center, images) for seed in args.seeds]
        stages = zip(*per_seed, strict=True)
        shown = ", ".join(f"{mean(s):.2f} ({min(s):.2f} to {max(s):.2f})" for s in stages)
        print(f"{name:20} stages 1, 2, ...: {shown}")
    if args.out:
        args.out.write_text(json.dumps({"seeds": args.seeds, "mean cosine by seed and stage": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
