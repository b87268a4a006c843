"""What the verbs do with detectors: judge one with a progress bar, tell what came out, and find things on images."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from convneur.cli.common import (
    epochs_json,
    epochs_sentence,
    last_words,
    listed_classes,
    tell_missing,
    tell_notes,
    tell_whole,
)
from convneur.cli.run_data import RunData
from convneur.data.decode import MAX_PIXELS, decode_image
from convneur.data.formats.images import FileImages
from convneur.data.known_classes import objects_of
from convneur.data.loading import ImageCache, default_workers
from convneur.data.module import in_order
from convneur.data.objects import ObjectSource, open_objects
from convneur.data.objects.loading import EvalObjects, collate_objects
from convneur.data.split_names import Judged
from convneur.explain.detector import JudgedDetector, draw_found, number_rows, report_detector
from convneur.explain.report import versions
from convneur.files import write_atomic, write_image
from convneur.models.prepare_for_inference import prepare_for_inference
from convneur.outputs import OutputFolder
from convneur.printing import Console, Progress, Table, markdown_code
from convneur.tasks.detection.evaluation import evaluate_detector
from convneur.tasks.detection.metrics import AveragePrecision, coco_results
from convneur.tasks.detection.models import WITH_MASKS
from convneur.tasks.detection.pasting import masks_of_boxes
from convneur.tasks.detection.saved import SavedDetector, load_detector
from convneur.tasks.evaluation import device_for

if TYPE_CHECKING:
    from convneur.recipes.fitting import Kept

CARD = """---
library_name: convneur
pipeline_tag: {pipeline}
tags: [object-detection, timm, convneur]
---
# {name}

A detector of {count} classes: {classes}. AP of boxes on its held-out images: {ap:.3f}, AP50 {ap50:.3f}.{masks}{epochs}

```python
from convneur.tasks.detection import load_detector
detector = load_detector("FOLDER")
found = detector.model([image])  # (3, H, W) in 0 to 1 -> boxes, labels from 1 on, scores
```

`convneur predict IMAGES --model FOLDER` draws what it finds. Made with {command}.
"""


def judge_detector(
    model: nn.Module,
    kind: str,
    name: str,
    source: ObjectSource,
    console: Console,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
    accelerator: str = "auto",
) -> JudgedDetector:
    """Evaluate on the held-out images.

    Args:
        model: In eval mode.
        kind: Such as ``mask_rcnn``.
        name: For tables.
        source: Whose held-out images are used.
        console: For the progress bar.
        workers: Processes that load.
        max_pixels: Larger images are unreadable.
        accelerator: As for training.
    """
    with_masks = kind in WITH_MASKS
    if with_masks:
        source.val.check_masks(source.classes)
    workers = default_workers() if workers is None else workers
    loader = in_order(EvalObjects(ImageCache(source.val, max_pixels)), collate_objects, 2, workers)
    with Progress(console=console, transient=True) as progress:
        batches = progress.track(loader, len(loader), description="evaluating")
        device = device_for(accelerator)
        told = evaluate_detector(model, source.val, source.classes, source.category_ids, batches, device, with_masks)
    model.cpu()
    return JudgedDetector(name, told, source.classes, source.category_ids, max_pixels)


def write_judged_detector(
    out: Path,
    judged: JudgedDetector,
    command: str,
    curve: Sequence[Mapping[str, float]] = (),
    unreadable: Mapping[str, str] | None = None,
    kept: Sequence[Kept] = (),
) -> None:
    """Write ``metrics.json``, ``detections.json`` in COCO's form, and ``report.html`` to the folder ``out``."""
    told = judged.told
    numbers = {
        "model": judged.name,
        "images": len(told.indices),
        "boxes": _plain(told.boxes),
        "masks": _plain(told.masks) if told.masks else None,
        "ms_per_image": {str(q): float(np.quantile(told.seconds, q)) * 1e3 for q in (0.1, 0.5, 0.9)},
        "unreadable": dict(unreadable or {}) | told.unreadable,
        "curve": list(curve),
        **({"models": epochs_json(kept)} if kept else {}),
        "command": command,
        "versions": versions(),
    }
    write_atomic(out / "metrics.json", json.dumps(numbers, indent=2) + "\n")
    write_atomic(out / "detections.json", json.dumps(told.results) + "\n")
    title = f"{judged.name} on {len(judged.classes)} classes"
    report_detector(out / "report.html", title, judged, last_words(command, versions(), kept), curve, unreadable)


def _plain(worth: AveragePrecision) -> dict[str, Any]:
    """Numbers as JSON can hold them, null where there is nothing to find."""
    names = ("ap", "ap50", "ap75", "small", "medium", "large")
    every = {name: getattr(worth, name) for name in names}
    return {name: _or_null(value) for name, value in every.items()} | {
        "per_class": {name: _or_null(value) for name, value in worth.per_class.items()}
    }


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value


def tell_detector(judged: JudgedDetector, *last_lines: str) -> None:
    """Print the numbers, what could not be read, and where to look."""
    console = Console()
    head, *rows = number_rows(judged)
    table = Table(title=f"{judged.name}, {len(judged.told.indices):,} held-out images")
    for place, name in enumerate(head):
        table.add_column(name, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if judged.told.unreadable:
        name, reason = next(iter(judged.told.unreadable.items()))
        lost = len(judged.told.unreadable)
        console.print(f"{lost} files could not be read; the first: {name} ({reason})")
    for line in last_lines:
        console.print(line)


def detector_card(judged: JudgedDetector, command: str, kept: Sequence[Kept] = ()) -> str:
    """Model card."""
    told = judged.told
    return CARD.format(
        name=judged.name,
        count=len(judged.classes),
        classes=listed_classes(judged.classes),
        ap=told.boxes.ap,
        ap50=told.boxes.ap50,
        masks=f" Of masks: {told.masks.ap:.3f} and {told.masks.ap50:.3f}." if told.masks else "",
        pipeline="image-segmentation" if told.masks else "object-detection",
        command=markdown_code(command),
        epochs=epochs_sentence(kept),
    )


def full_name(kind: str, backbone: str) -> str:
    """``mask_rcnn`` and a backbone as people say it."""
    words = {"rcnn": "R-CNN", "retinanet": "RetinaNet", "fcos": "FCOS"}
    return f"{' '.join(words.get(word, word.title()) for word in kind.split('_'))} with {backbone}"


def open_detector(model: str, image_size: int | None) -> SavedDetector:
    """Load a detector, and have it resize images to another size if one is given."""
    saved = load_detector(model)
    if image_size is not None:
        transform: Any = saved.model.transform
        longest = round(transform.max_size * image_size / transform.min_size[0])
        transform.min_size, transform.max_size = (image_size,), longest
    return saved


def evaluate_saved(
    model: str,
    data: str,
    folder: OutputFolder,
    console: Console,
    command: str,
    image_size: int | None = None,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
    val_share: float | None = None,
    seed: int = 0,
    part: Judged = "val",
    run: RunData | None = None,
) -> None:
    """Judge a detector on the held-out images of a folder; what ``convneur eval`` does with one."""
    with console.status(f"Loading {model}"):
        saved = open_detector(model, image_size)
    known = [name.strip() for name in saved.classes]  # as they are read now
    source = open_objects(data, part, known, saved.kind in WITH_MASKS, val_share, seed)
    tell_notes(source.notes, console)
    found, source = source.classes, objects_of(source, known)
    tell_missing(known, found, console)
    source = (run or RunData()).not_learned(source, data, console)
    tell_whole(source, console)
    name = full_name(saved.kind, saved.arguments["backbone"])
    prepare_for_inference(saved.model, device_for())
    judged = judge_detector(saved.model, saved.kind, name, source, console, workers, max_pixels)
    folder.start()
    write_judged_detector(folder.path, judged, command)
    folder.finish()
    tell_detector(judged, f"Report: {folder.path / 'report.html'}   numbers: {folder.path / 'metrics.json'}")


def find_objects(
    files: Sequence[str],
    model: str,
    folder: OutputFolder,
    score: float,
    console: Console,
    image_size: int | None = None,
    workers: int = 0,
    max_pixels: int = MAX_PIXELS,
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Find objects on images, and draw them.

    Args:
        files: Images.
        model: Folder of a detector.
        folder: For pictures and for ``detections.json``, which holds all, in COCO's form with the names of files.
        score: From which a detection is drawn and returned.
        console: For the progress bar.
        image_size: Pixels that the shorter side is resized to; what the detector was made for if None.
        workers: Processes that load.
        max_pixels: Larger images are not read.

    Returns:
        Per image ``file``, ``picture`` and ``objects`` (``label``, ``score``, ``box`` with corners), and the files that
        could not be read, and why.
    """
    with console.status(f"Loading {model}"):
        saved = open_detector(model, image_size)
    device = device_for()
    prepare_for_inference(saved.model, device)
    images = FileImages(files, [0] * len(files))
    loader = in_order(EvalObjects(ImageCache(images, max_pixels)), collate_objects, 1, workers)
    rows: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    unreadable: list[tuple[str, str]] = []
    folder.start()
    (written,) = folder.free("detections", [".json"])
    with Progress(console=console, transient=True) as progress, torch.inference_mode():
        for batch in progress.track(loader, len(loader), description="predicting"):
            unreadable += batch.unreadable
            if batch.unreadable:
                continue
            index = int(batch.indices[0])
            image, name = batch.images[0], images.name(index)
            with masks_of_boxes(saved.model):
                found = {key: value.cpu() for key, value in saved.model([image.to(device)])[0].items()}
            own = coco_results(index + 1, found, saved.category_ids, (image.shape[1], image.shape[2]))
            results += [each | {"file_name": name} for each in own]
            sure = [each for each in own if each["score"] >= score]
            (picture,) = folder.free(Path(name).stem, [".png"])
            shown = decode_image(images.read(index), max_pixels)
            write_image(picture, draw_found(shown, sure, saved.classes, saved.category_ids))
            rows.append({"file": name, "picture": str(picture), "objects": _objects(sure, saved)})
    write_atomic(written, json.dumps(results) + "\n")
    return rows, unreadable


def _objects(results: Sequence[Mapping[str, Any]], saved: SavedDetector) -> list[dict[str, Any]]:
    names = dict(zip(saved.category_ids, saved.classes, strict=True))
    found = []
    for each in results:
        x, y, width, height = each["bbox"]
        box = [round(side, 2) for side in (x, y, x + width, y + height)]
        found.append({"label": names[each["category_id"]], "score": round(each["score"], 6), "box": box})
    return found
