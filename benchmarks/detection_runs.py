"""A table, curves and pictures of finished detection runs, side by side.

    convneur train instance --data nuclei --epochs 8 --fit.evaluate-every 2 --out runs/m1
    convneur train instance --data nuclei --epochs 8 --fit.evaluate-every 2 --out runs/local \\
        --backbone.global-placement none
    python benchmarks/detection_runs.py --data nuclei --out docs/results/detection/nuclei \\
        "M1=runs/m1" "without memory=runs/local"

writes OUT.json (what the runs say of themselves), OUT.png (curves) and OUT_pictures.jpg: the
held-out images whose numbers are given, with what is there and what each run finds.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image
from side_by_side import asked, keep, sheet

from convneur.data.decode import decode_image
from convneur.data.objects import ObjectSource, open_objects
from convneur.reports import figures
from convneur.tasks.detection import load_detector
from convneur.tasks.detection.drawing import colours, draw_objects, masks_one_by_one
from convneur.tasks.detection.metrics import coco_results
from convneur.tasks.detection.report import draw_found

SIDE, SCORE = 480, 0.5


def facts(name: str, run: Path) -> dict[str, Any]:
    """What a run says of itself, and how many parameters its detector has."""
    told = json.loads((run / "metrics.json").read_text())
    model = load_detector(run).model
    return {
        "name": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "recipe": json.loads((run / "run.json").read_text())["recipe"],
        **{key: told[key] for key in ("boxes", "masks", "images", "curve", "versions")},
        "command": re.sub(r" --out \S+", "", told["command"]),
    }


def curves(rows: list[dict[str, Any]]) -> Figure:
    words = {"loss": "training loss", "ap50": "AP50 of boxes", "ap75": "AP75 of boxes", "mask_ap50": "AP50 of masks"}
    words = {key: label for key, label in words.items() if any(key in each for row in rows for each in row["curve"])}
    return figures.curves({row["name"]: row["curve"] for row in rows}, words)


def truth(source: ObjectSource, index: int, picture: Image.Image) -> Image.Image:
    objects = source.val.objects[index]
    masks = None
    if source.val.has_masks:
        masks = masks_one_by_one(objects.shapes, picture.height, picture.width)
    names = [source.classes[label] for label in objects.labels]
    shown = colours((objects.labels + 1).tolist(), len(source.classes))
    return draw_objects(picture, torch.from_numpy(objects.boxes), names, shown, masks)


@torch.inference_mode()
def pictures(runs: dict[str, Path], source: ObjectSource, numbers: list[int]) -> Image.Image:
    """A row for each image: what is there, and what each detector finds with a score of at least `SCORE`."""
    shown = [decode_image(source.val.read(number)) for number in numbers]
    columns = [[truth(source, number, picture) for number, picture in zip(numbers, shown, strict=True)]]
    for run in runs.values():
        saved = load_detector(run)
        column = []
        for picture in shown:
            pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
            image = pixels.view(picture.height, picture.width, 3).permute(2, 0, 1).float() / 255
            results = coco_results(0, saved.model([image])[0], saved.category_ids)
            sure = [each for each in results if each["score"] >= SCORE]
            column.append(draw_found(picture, sure, saved.classes, saved.category_ids))
        columns.append(column)
    return sheet(columns, SIDE)


def main() -> None:
    given, runs = asked(__doc__, [0, 1, 2])
    rows = [facts(name, run) for name, run in runs.items()]
    for row in rows:
        kinds = [(kind, row[kind]) for kind in ("boxes", "masks") if row[kind]]
        told = ", ".join(f"{kind} AP {w['ap']:.3f} AP50 {w['ap50']:.3f} AP75 {w['ap75']:.3f}" for kind, w in kinds)
        print(f"{row['name']}: {row['parameters'] / 1e6:.1f} M parameters, {told}")
    keep(rows, given.out)
    curves(rows).savefig(given.out.with_suffix(".png"), dpi=90)
    sheet = pictures(runs, open_objects(given.data), given.pictures)
    sheet.save(given.out.with_name(f"{given.out.name}_pictures.jpg"), quality=85)


if __name__ == "__main__":
    main()
