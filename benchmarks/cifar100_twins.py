"""CIFAR-100, recipe ``cifar``: M1 against its local-only baseline, the same seeds and batches for both.

    python benchmarks/cifar100_twins.py DATA --images 10000 --epochs 8 --seeds 0 1 2

DATA is a folder with train-*.parquet and test-*.parquet (columns image: bytes, label). With ``--images`` only the first
so many training images of each class are used, to fit a CPU. Every run goes on where it was stopped, runs that are in
the results are not run again, and the curves are drawn at the end. On a CPU two of it side by side, one thread each and
``--only`` one of the models, take less time than one after the other.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

import convneur
from convneur.files import write_atomic
from convneur.reports.figures import COLOURS
from convneur.reports.page import versions
from convneur_options.backbone import BackboneConfig
from convneur_options.classification import RECIPES, ClassificationRecipe

TWINS = {"convneur": None, "local-only": "none"}


def smaller(data: Path, images: int, folder: Path) -> Path:
    """The first training images of each class, and all test images, as one file each."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        table = pa.concat_tables(
            [pq.read_table(f, columns=["image", "label"]) for f in sorted(data.glob(f"{split}-*"))]
        )
        labels = table["label"].to_pylist()
        if split == "train" and images:
            each, taken, rows = images // (max(labels) + 1), defaultdict(int), []
            for row, label in enumerate(labels):
                taken[label] += 1
                if taken[label] <= each:
                    rows.append(row)
            table = table.take(rows)
        pq.write_table(table, folder / f"{split}.partial")
        (folder / f"{split}.partial").replace(folder / f"{split}.parquet")
    return folder


def recipe(name: str, args: argparse.Namespace) -> ClassificationRecipe:
    whole = RECIPES["cifar"]
    backbone: BackboneConfig = replace(whole.backbone, global_placement=TWINS[name])
    return replace(whole, epochs=args.epochs or whole.epochs, backbone=backbone)


def draw(kept: dict, path: Path) -> None:
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axis = figure.subplots()
    for name in TWINS:
        for i, run in enumerate(run for run in kept["runs"] if run["model"] == name):
            epochs = range(1, len(run["accuracy"]) + 1)
            axis.plot(epochs, run["accuracy"], color=COLOURS[name], alpha=0.8, label=name if i == 0 else None)
    axis.set(xlabel="epoch", ylabel="test accuracy (average of the weights)")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=130)


def results(path: Path, settings: dict) -> dict:
    """What was measured so far, with the same settings."""
    kept = json.loads(path.read_text()) if path.exists() else {"settings": settings, "runs": []}
    if kept["settings"] != settings:
        raise SystemExit(f"{path} was begun with {kept['settings']}; give the same, or another --out")
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=0, help="training images; 0 for all")
    parser.add_argument("--epochs", type=int, default=0, help="0 for the recipe's own")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(TWINS), default=list(TWINS))
    parser.add_argument("--workers", type=int, default=None, help="processes that load images")
    parser.add_argument("--runs", type=Path, default=Path("runs/cifar100_twins"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/cifar100_twins.json"))
    args = parser.parse_args()
    settings = {"images": args.images, "epochs": args.epochs}
    kept = results(args.out, settings)
    data = args.runs / "data"
    if not (data / "test.parquet").exists():
        smaller(args.data, args.images, data)
    for seed in args.seeds:
        for name in args.only:
            if any((run["model"], run["seed"]) == (name, seed) for run in kept["runs"]):
                continue
            folder, started = args.runs / f"{name}-{seed}", time.perf_counter()
            settings_of_run = {"seed": seed, "workers": args.workers, "resume": (folder / "run.json").exists()}
            trained = convneur.train(data, recipe=recipe(name, args), out=folder, **settings_of_run)
            run = {
                "model": name,
                "seed": seed,
                "accuracy": [round(row["accuracy"], 4) for row in trained.curve],
                "loss": [round(row["loss"], 4) for row in trained.curve],
                "minutes": round((time.perf_counter() - started) / 60, 1),
                "params": sum(p.numel() for p in trained.model.model.parameters()),
            }
            kept = results(args.out, settings)  # another process may have added to it
            kept["runs"].append(run)
            kept["versions"] = versions()
            write_atomic(args.out, json.dumps(kept, indent=1) + "\n")
            print(f"{name:10} seed {seed}: {run['accuracy'][-1]:.2%} after {run['minutes']} min", flush=True)
    draw(kept, args.out.with_suffix(".png"))
    for name in args.only:
        last = [run["accuracy"][-1] for run in kept["runs"] if run["model"] == name]
        spread = statistics.stdev(last) if len(last) > 1 else float("nan")
        print(f"{name:10} {statistics.mean(last):.2%} ± {spread:.2%} over {len(last)} seeds")


if __name__ == "__main__":
    main()
