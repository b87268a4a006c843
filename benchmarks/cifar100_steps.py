"""500 training steps of M1 at 64 px on CIFAR-100, from scratch: does the loss fall, is anything not a number?

    python benchmarks/cifar100_steps.py DATA --out docs/results/cifar100_steps.json

DATA is a folder with train-*.parquet (columns image: bytes, label), CIFAR-100's 50,000 training images. Every cell is
one run with the same seed and the same batches; results are added to the file as they come, and cells that are in it
are not run again.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image

import convneur

MODELS = {
    "default": {},
    "local-only": {"global_placement": "none"},
    "mlp state": {"memory": {"state": "mlp"}},
    "published preset": {"preset": "published"},
}
LINEAR = {"preset": "linear"}
# What inner step, decay and normalisation do to stability: `--only stability`. 16 tokens per stage at 64 px.
STABILITY = {
    "default": LINEAR,
    "local-only": {"global_placement": "none"},
    "steps up to 10": LINEAR | {"memory": {"max_step": 10.0}},
    "steps up to 100": LINEAR | {"memory": {"max_step": 100.0}},
    "no decay": LINEAR | {"memory": {"decay": False}},
    "inner loss a plain sum": LINEAR | {"memory": {"reference_length": None}},
    "tokens not centred": LINEAR | {"center_tokens": False},
    "chunks of 4, in order": LINEAR | {"memory": {"chunk_size": 4, "anchor": "previous"}},
    "mlp": {"memory": {"state": "mlp"}},
    "mlp, steps up to 10": {"memory": {"state": "mlp", "max_step": 10.0}},
    "mlp, chunks of 4, in order": {"memory": {"state": "mlp", "chunk_size": 4, "anchor": "previous", "max_step": 0.02}},
}
MEAN, STD = (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)


def load(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """All training images (N, 3, 32, 32) as bytes, and labels (N,)."""
    images, labels = [], []
    for file in sorted(folder.glob("train-*.parquet")):
        table = pq.read_table(file)
        images += [np.asarray(Image.open(io.BytesIO(b)).convert("RGB")) for b in table["image"].to_pylist()]
        labels += table["label"].to_pylist()
    if not images:
        raise SystemExit(f"no train-*.parquet in {folder}; give the folder of CIFAR-100")
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.tensor(labels)


def run(name: str, bf16: bool, data: tuple[torch.Tensor, torch.Tensor], args: argparse.Namespace) -> dict:
    torch.manual_seed(args.seed)
    changes = (STABILITY if args.only == ["stability"] else MODELS)[name]
    widths = {"dims": args.dims} if args.dims else {}
    model = convneur.create_model("convneur_m1", num_classes=100, **changes, **widths)
    optimizer = torch.optim.AdamW(model.parameter_groups(args.lr, 0.05, args.global_lr_scale))
    peaks = [group["lr"] for group in optimizer.param_groups]
    draw = torch.Generator().manual_seed(args.seed)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    losses, norms, started = [], [], time.perf_counter()
    for step in range(args.steps):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * min(1.0, (step + 1) / 50)
        rows = torch.randint(len(data[1]), (args.batch_size,), generator=draw)
        images = (F.interpolate(data[0][rows].float() / 255, size=64, mode="bilinear") - mean) / std
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(model(images), data[1][rows])
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf")).item())
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            print(
                f"{name:17} {'bf16' if bf16 else 'fp32'} step {step + 1} loss {np.mean(losses[-50:]):.3f}", flush=True
            )
    rises = [losses[i] - np.mean(losses[i - 20 : i]) for i in range(50, args.steps)]
    return {
        "loss_per_50_steps": [round(float(np.mean(losses[i : i + 50])), 4) for i in range(0, args.steps, 50)],
        "not_a_number": int(np.sum(~np.isfinite(losses))),
        "largest_rise": round(float(np.nanmax(rises)), 3),  # over the mean of the 20 steps before
        "grad_norm_median": round(float(np.nanmedian(norms)), 3),
        "grad_norm_max": round(float(np.nanmax(norms)), 3),
        "seconds_per_step": round((time.perf_counter() - started) / args.steps, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/results/cifar100_steps.json"))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--global-lr-scale", type=float, default=0.1)
    parser.add_argument("--dims", type=int, nargs="*", help="channels of the stages, if not M1's")
    parser.add_argument("--only", nargs="*", choices=[*MODELS, "stability"], default=list(MODELS))
    args = parser.parse_args()
    data = load(args.data)
    kept = json.loads(args.out.read_text()) if args.out.exists() else {"cells": {}}
    kept |= {
        "settings": {k: v for k, v in vars(args).items() if k not in ("data", "out", "only")},
        "versions": {"convneur": convneur.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    for bf16 in (False,) if args.only == ["stability"] else (False, True):
        for name in STABILITY if args.only == ["stability"] else args.only:
            cell = f"{name}, {'bf16' if bf16 else 'fp32'}"
            if cell not in kept["cells"]:
                kept["cells"][cell] = run(name, bf16, data, args)
                args.out.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
