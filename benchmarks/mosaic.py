"""The mosaic probe: does the memory carry what stands far away in the picture?

    python benchmarks/mosaic.py --seeds 0 1 --out docs/results/mosaic.json

A framed digit in the corner of a picture of 128 px asks; every tile with the same digit is to be marked. The default
ConvNeur and its local-only baseline (C1 = 24, three stages) are trained alike on mosaics of scikit-learn's digits, and
scored by IoU on mosaics of held-out digits. This is the recipe of ``convneur demo --task mosaic``, with more steps.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

import convneur
from convneur.lab.demo import MOSAIC, train_pair


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=12, help="of 100 steps each")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("docs/results/mosaic.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    kept = {
        "recipe": asdict(replace(MOSAIC, epochs=args.epochs)),
        "versions": {"convneur": convneur.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "threads": args.threads,
        "runs": [],
    }
    for seed in args.seeds:
        started = time.perf_counter()
        for name, trained in train_pair(replace(MOSAIC, epochs=args.epochs, seed=seed)):
            if not trained.finished:
                raise SystemExit("stopped")
            run = {
                "model": name,
                "seed": seed,
                "iou": trained.curve[-1]["iou"],
                "iou_curve": [round(row["iou"], 4) for row in trained.curve],
                "loss_curve": [round(row["loss"], 4) for row in trained.curve],
                "minutes": round((time.perf_counter() - started) / 60, 1),
            }
            started = time.perf_counter()
            kept["runs"].append(run)
            args.out.write_text(json.dumps(kept, indent=1) + "\n")
            print(f"{name:10} seed {seed}: IoU {run['iou']:.3f} in {run['minutes']} min", flush=True)


if __name__ == "__main__":
    main()
