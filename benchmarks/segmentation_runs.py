"""A table, curves and pictures of finished segmentation runs, side by side.

    convneur train segmentation --data camvid --fit.evaluate-every 5 --out runs/m1
    convneur train segmentation --data camvid --fit.evaluate-every 5 --out runs/local \\
        --backbone.global-placement none
    python benchmarks/segmentation_runs.py --data camvid --out docs/results/segmentation/camvid \\
        "M1=runs/m1" "without memory=runs/local"

writes OUT.json (what the runs say of themselves), OUT.png (curves) and OUT_pictures.jpg: photographs of the held-out
images whose numbers are given, their truth, and what each run says.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from side_by_side import asked, keep, sheet

from convneur.data.loading import ImageCache
from convneur.data.semantic import PixelSource, open_pixels
from convneur.data.semantic.loading import EvalPixels
from convneur.reports import figures
from convneur.tasks.segmentation import load_segmenter
from convneur.tasks.segmentation.inference import segment
from convneur.tasks.segmentation.report import WORDS, overlay

SIDE = 360
TOLD = ("miou", "pixel_accuracy", "mean_accuracy", "iou", "boundary_f", "images", "ms_per_image", "curve", "versions")


def facts(name: str, run: Path) -> dict[str, Any]:
    """What a run says of itself, and how many parameters its model has."""
    told = json.loads((run / "metrics.json").read_text())
    asked = json.loads((run / "run.json").read_text())
    return {
        "name": name,
        "parameters": sum(p.numel() for p in load_segmenter(run).model.parameters()),
        "seed": asked["seed"],
        "recipe": asked["recipe"],
        **{key: told[key] for key in TOLD},
        "command": re.sub(r" --out \S+", "", told["command"]),
    }


def pictures(runs: dict[str, Path], source: PixelSource, numbers: list[int]) -> Image.Image:
    pairs = [EvalPixels(ImageCache(source.val), source.code, strict=False)[number] for number in numbers]
    shown = [Image.fromarray(pair.image.permute(1, 2, 0).numpy()) for pair in pairs]
    truth = [overlay(each, np.asarray(pair.labels), source.code) for each, pair in zip(shown, pairs, strict=True)]
    columns = [shown, truth]
    for run in runs.values():
        saved = load_segmenter(run)
        found = [segment(saved.model, pair.image, saved.inference, torch.device("cpu")).numpy() for pair in pairs]
        columns.append([overlay(each, labels, saved.code) for each, labels in zip(shown, found, strict=True)])
    return sheet(columns, SIDE)


def main() -> None:
    given, runs = asked(__doc__, [0, 40, 80])
    rows = [facts(name, run) for name, run in runs.items()]
    for row in rows:
        print(
            f"{row['name']}: {row['parameters'] / 1e6:.1f} M parameters, mIoU {row['miou']:.4f}, "
            f"pixels {row['pixel_accuracy']:.4f}, boundary F {np.nanmean(list(row['boundary_f'].values())):.4f}"
        )
    keep(rows, given.out)
    figure = figures.curves({row["name"]: row["curve"] for row in rows}, WORDS)
    figure.savefig(given.out.with_suffix(".png"), dpi=90)
    image = pictures(runs, open_pixels(given.data), given.pictures)
    image.save(given.out.with_name(f"{given.out.name}_pictures.jpg"), quality=85)


if __name__ == "__main__":
    main()
