"""Parameters and true MACs of M3 with each token_mixer, fusion, placement and width, beside the published ones.

    python benchmarks/ablation_macs.py --out docs/results/ablation_macs.json

The published figures are those of the paper's ablations of M3 on ImageNet-1K (GMACs at 224 px, top-1).
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import titans_pytorch  # noqa: F401  it cannot be imported while models are built on the meta device

from convneur import create_model
from convneur.bench import count_cost
from convneur.files import write_atomic

# name: what it changes of our default, published GMACs, published top-1
CELLS: dict[str, tuple[dict[str, Any], float | None, float | None]] = {
    "local-only": ({"global_placement": "none"}, 1.4, 78.2),
    "memory, per stage (ours, linear)": ({}, None, None),
    "memory, per stage (ours, mlp)": ({"memory": {"state": "mlp"}}, None, None),
    "memory, per stage (published preset)": ({"preset": "published"}, 1.8, 80.0),
    "memory, per layer (ours, linear)": ({"global_placement": "per_layer"}, None, None),
    "memory, per layer (published preset)": ({"preset": "published", "global_placement": "per_layer"}, 2.3, 80.4),
    "pointwise control": ({"token_mixer": "pointwise"}, None, None),
    "squeeze-excitation": ({"token_mixer": "se"}, None, None),
    "CBAM": ({"token_mixer": "cbam"}, 1.5, 78.4),
    "non-local": ({"token_mixer": "non_local"}, None, None),
    "non-local, full resolution": ({"token_mixer": "non_local", "token_strides": (1, 1, 1, 1)}, 3.0, 79.1),
    "self-attention": ({"token_mixer": "attention"}, 1.8, 79.8),
    "RWKV, bidirectional (published: IR-RWKV)": ({"token_mixer": "rwkv"}, 2.0, 77.6),
    "Titans": ({"token_mixer": "titans"}, None, None),
    "Titans, full resolution (published: with segmented attention)": (
        {"token_mixer": "titans", "token_strides": (1, 1, 1, 1)},
        3.1,
        79.6,
    ),
    "fusion add": ({"fusion": "add"}, 1.8, 79.6),
    "fusion concat": ({"fusion": "concat"}, 1.9, 79.5),
    "memory width 64": ({"memory_width": 64}, 1.5, 78.6),
    "memory width 256": ({"memory_width": 256}, 2.7, 80.3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = {}
    print("| M3 with | params | GMACs | published GMACs | published top-1 |\n|---|---|---|---|---|")
    for name, (changes, macs, top1) in CELLS.items():
        cost = count_cost(partial(create_model, "convneur_m3", **changes), 224)
        found[name] = {"params": cost.params, "macs": cost.macs, "published_gmacs": macs, "published_top1": top1}
        told = f"{cost.params / 1e6:.2f} M | {cost.macs / 1e9:.2f} | {macs or ''} | {top1 or ''}"
        print(f"| {name} | {told} |", flush=True)
    if args.out:
        write_atomic(args.out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
