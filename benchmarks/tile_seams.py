"""How much a trained segmentation model says otherwise when it looks at images tile by tile.

    python benchmarks/tile_seams.py --model runs/m1 --data camvid --out docs/results/segmentation/tiles.json

Held-out images are asked whole and in tiles of ``--window`` px with several margins. Told are the share of the pixels
whose class differs, near where tiles meet (within 8 px) and elsewhere, and the mIoU of each.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from convneur.data.loading import ImageCache
from convneur.data.semantic import open_pixels
from convneur.data.semantic.loading import EvalPixels
from convneur.tasks.segmentation import load_segmenter
from convneur.tasks.segmentation.inference import segment, tiles
from convneur.tasks.segmentation.metrics import SegmentationScores, confusion_of

NEAR = 8


def near_seams(height: int, width: int, window: int, margin: int) -> torch.Tensor:
    near = torch.zeros(height, width, dtype=torch.bool)
    for tile in tiles(height, width, window, margin):
        top, left = tile.answered_rows.start, tile.answered_columns.start
        if top:
            near[top - NEAR : top + NEAR, tile.answered_columns] = True
        if left:
            near[tile.answered_rows, left - NEAR : left + NEAR] = True
    return near


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--window", type=int, default=192)
    parser.add_argument("--margins", type=int, nargs="+", default=[0, 16, 32, 64])
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    saved, source, device = load_segmenter(given.model), open_pixels(given.data), torch.device("cpu")
    pairs, classes = EvalPixels(ImageCache(source.val), source.code, strict=False), len(source.code.classes)
    whole = [segment(saved.model, pair.image, replace(saved.inference, window=0), device) for pair in pairs]

    def scores(answers: list[torch.Tensor]) -> float:
        found = (confusion_of(a, torch.as_tensor(p.labels), classes) for a, p in zip(answers, pairs, strict=True))
        return SegmentationScores.of(sum(found, torch.zeros(classes, classes, dtype=torch.long))).miou

    rows: list[dict[str, Any]] = [{"margin": None, "miou": scores(whole)}]
    print(rows[-1])
    for margin in given.margins:
        how = replace(saved.inference, window=given.window, margin=margin)
        answers = [segment(saved.model, pair.image, how, device) for pair in pairs]
        counts = torch.zeros(2, 2)  # by place, all and differing
        for one, other in zip(whole, answers, strict=True):
            near, differs = near_seams(*one.shape, given.window, margin), one != other
            for place, mask in enumerate((near, ~near)):
                counts[place] += torch.tensor([mask.sum(), (differs & mask).sum()])
        shares = (counts[:, 1] / counts[:, 0]).tolist()
        total = float(counts[:, 1].sum() / counts[:, 0].sum())
        rows.append(
            {
                "margin": margin,
                "miou": scores(answers),
                "differ": total,
                "differ_near": shares[0],
                "differ_elsewhere": shares[1],
            }
        )
        print(rows[-1], flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(
        json.dumps({"window": given.window, "near": NEAR, "images": len(pairs), "rows": rows}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
