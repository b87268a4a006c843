"""What the verbs do with segmentation models: judge one with a progress bar, tell what came out, and mark images."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from convneur.cli.common import (
    epochs_json,
    epochs_sentence,
    last_words,
    listed_classes,
    tell_notes,
    tell_whole,
)
from convneur.cli.run_data import RunData
from convneur.data.decode import MAX_PIXELS, UnreadableImageError, decode_image
from convneur.data.known_classes import pixels_of
from convneur.data.loading import ImageCache, default_workers
from convneur.data.module import in_order
from convneur.data.semantic import IGNORED, PixelSource, open_pixels
from convneur.data.semantic.loading import EvalPixels, listed
from convneur.data.semantic.masks import ClassMap
from convneur.data.split_names import Judged
from convneur.explain.report import versions
from convneur.explain.segmenter import JudgedSegmenter, number_rows, overlay, report_segmenter
from convneur.files import write_atomic, write_image
from convneur.models.prepare_for_inference import prepare_for_inference
from convneur.outputs import OutputFolder
from convneur.printing import Console, Progress, Table, markdown_code, printable
from convneur.tasks.evaluation import device_for
from convneur.tasks.segmentation.evaluation import evaluate_segmenter
from convneur.tasks.segmentation.inference import Inference, segment
from convneur.tasks.segmentation.models import Segmenter
from convneur.tasks.segmentation.saved import load_segmenter

if TYPE_CHECKING:
    from convneur.recipes.fitting import Kept

CARD = """---
library_name: convneur
pipeline_tag: image-segmentation
tags: [image-segmentation, timm, convneur]
---
# {name}

A class of {count} for every pixel: {classes}. Mean intersection over union on its held-out images: {miou:.3f}.{epochs}

```python
from convneur.tasks.segmentation import load_segmenter
saved = load_segmenter("FOLDER")
logits = saved.model(images)  # normalised (B, 3, H, W) -> (B, {count}, H, W)
```

`convneur predict IMAGES --model FOLDER` marks images. Made with {command}.
"""
NAMES = {"semantic_fpn": "Semantic FPN", "upernet": "UPerNet", "unet": "U-Net", "deeplabv3plus": "DeepLabV3+"}


def full_name(decoder: str, backbone: str) -> str:
    """``upernet`` and a backbone as people say it."""
    return f"{NAMES.get(decoder, decoder.title())} with {backbone}"


def judge_segmenter(
    model: Segmenter,
    name: str,
    source: PixelSource,
    how: Inference,
    console: Console,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
    accelerator: str = "auto",
    strict: bool = False,
) -> JudgedSegmenter:
    """Evaluate on the held-out images.

    Args:
        model: In eval mode.
        name: For tables.
        source: Whose held-out images are used.
        how: How to ask the model.
        console: For the progress bar.
        workers: Processes that load.
        max_pixels: Larger images are unreadable.
        accelerator: As for training.
        strict: Whether a mask that cannot be used, or has pixels of no class, is an error.
    """
    code, device = source.code, device_for(accelerator)
    images = EvalPixels(ImageCache(source.val, max_pixels), code, strict)
    loader = in_order(images, listed, 2, default_workers() if workers is None else workers)
    with Progress(console=console, transient=True) as progress:
        batches = progress.track(loader, len(loader), description="evaluating")
        told = evaluate_segmenter(model, len(code.classes), batches, how, device)
    model.cpu()

    def look(index: int) -> tuple[Any, ClassMap, ClassMap]:
        picture, truth, _ = images.pair(index)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        return picture, truth.numpy(), segment(model, pixels, how, torch.device("cpu")).numpy()

    return JudgedSegmenter(name, told, code, look, source.val.name)


def write_judged_segmenter(
    out: Path,
    judged: JudgedSegmenter,
    command: str,
    curve: Sequence[Mapping[str, float]] = (),
    unreadable: Mapping[str, str] | None = None,
    kept: Sequence[Kept] = (),
) -> None:
    """Write ``metrics.json`` and ``report.html`` to the folder ``out``."""
    told, classes = judged.told, judged.code.classes
    numbers = {
        "model": judged.name,
        "images": len(told.indices),
        **_by_class(
            ("miou", "pixel_accuracy", "mean_accuracy"),
            (told.scores.miou, told.scores.pixel_accuracy, told.scores.mean_accuracy),
        ),
        "iou": _by_class(classes, told.scores.iou.tolist()),
        "boundary_f": _by_class(classes, told.boundary.tolist()),
        "confusion": told.confusion.tolist(),
        "ms_per_image": {str(q): float(np.quantile(told.seconds, q)) * 1e3 for q in (0.1, 0.5, 0.9)},
        "unreadable": dict(unreadable or {}) | told.unreadable,
        "unknown_labels": told.unknown_labels,
        "curve": list(curve),
        **({"models": epochs_json(kept)} if kept else {}),
        "command": command,
        "versions": versions(),
    }
    write_atomic(out / "metrics.json", json.dumps(numbers, indent=2) + "\n")
    title = f"{judged.name} on {len(classes)} classes"
    report_segmenter(out / "report.html", title, judged, last_words(command, versions(), kept), curve, unreadable)


def _by_class(classes: Sequence[str], values: Sequence[float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in zip(classes, values, strict=True)}


def tell_segmenter(judged: JudgedSegmenter, *last_lines: str) -> None:
    """Print the numbers, what could not be used, and where to look."""
    console, told = Console(), judged.told
    table = Table(title=f"{judged.name}, {len(told.indices):,} held-out images", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for row in number_rows(judged)[1:]:
        table.add_row(*row)
    console.print(table)
    for found, what in (
        (told.unreadable, "files could not be used"),
        (told.unknown_labels, "masks have pixels of no class"),
    ):
        if found:
            name, reason = next(iter(found.items()))
            console.print(f"{len(found)} {what}; the first: {name} ({reason})")
    for line in last_lines:
        console.print(line)


def segmenter_card(judged: JudgedSegmenter, command: str, kept: Sequence[Kept] = ()) -> str:
    """Model card."""
    classes = judged.code.classes
    return CARD.format(
        name=judged.name,
        count=len(classes),
        classes=listed_classes(classes),
        miou=judged.told.scores.miou,
        command=markdown_code(command),
        epochs=epochs_sentence(kept),
    )


def evaluate_saved(
    model: str,
    data: str,
    folder: OutputFolder,
    console: Console,
    command: str,
    changes: Mapping[str, Any],
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
    val_share: float | None = 0.2,
    seed: int = 0,
    part: Judged = "val",
    run: RunData | None = None,
) -> None:
    """Judge a model on the held-out images of a folder; what ``convneur eval`` does with one.

    ``changes`` are those of its `Inference`.
    """
    with console.status(f"Loading {model}"):
        saved = load_segmenter(model)
    source = open_pixels(data, val_share, seed, part=part, learns=False)
    tell_notes(source.notes, console)
    source = pixels_of(source, saved.code.classes)
    source = (run or RunData()).not_learned(source, data, console)
    tell_whole(source, console)
    name = full_name(saved.arguments["decoder"], saved.arguments["backbone"])
    how = changed(saved.inference, changes)
    prepare_for_inference(saved.model, device_for())
    judged = judge_segmenter(saved.model, name, source, how, console, workers, max_pixels)
    counts = judged.told.confusion.sum(1).tolist()
    if missing := [name for name, count in zip(saved.code.classes, counts, strict=True) if not count]:
        console.print(
            f"classes that the data does not have: {', '.join(missing)}; one that is marked all the same counts as 0 "
            "in mIoU",
            style="yellow",
        )
    folder.start()
    write_judged_segmenter(folder.path, judged, command)
    folder.finish()
    tell_segmenter(judged, f"Report: {folder.path / 'report.html'}   numbers: {folder.path / 'metrics.json'}")


def changes_of(
    image_size: int | None, window: int | None, scales: Sequence[float] | None, flip: bool
) -> dict[str, Any]:
    """What flags change of a model's `Inference`: those that are given."""
    given = {"size": image_size, "window": window, "scales": tuple(scales) if scales else None, "flip": flip or None}
    return {name: value for name, value in given.items() if value is not None}


def changed(how: Inference, changes: Mapping[str, Any]) -> Inference:
    """Another `Inference`; of a smaller tile a quarter at each side is margin, at most."""
    given = dict(changes)
    if given.get("window"):
        given["margin"] = min(how.margin, given["window"] // 4)
    return replace(how, **given)


def mark_images(
    files: Sequence[str],
    model: str,
    folder: OutputFolder,
    console: Console,
    changes: Mapping[str, Any],
    max_pixels: int = MAX_PIXELS,
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Mark the classes of images.

    Args:
        files: Images.
        model: Folder of a segmentation model.
        folder: ``NAME.png`` has classes as numbers, with a palette of their colours, ``NAME-overlay.jpg`` shows
            them over the picture; ``classes.txt`` has their names.
        console: For the progress bar.
        changes: Of the model's `Inference`.
        max_pixels: Larger images are not read.

    Returns:
        Per image ``file``, ``mask``, ``overlay`` and ``shares``, of each class that occurs; and the files that could
        not be read, and why.
    """
    with console.status(f"Loading {model}"):
        saved = load_segmenter(model)
    how, device = changed(saved.inference, changes), device_for()
    prepare_for_inference(saved.model, device)
    rows: list[dict[str, Any]] = []
    unreadable: list[tuple[str, str]] = []
    folder.start()
    (names,) = folder.free("classes", [".txt"])
    write_atomic(names, "".join(f"{printable(name)}\n" for name in saved.code.classes))
    with Progress(console=console, transient=True) as progress:
        for file in progress.track(files, len(files), description="predicting"):
            try:
                picture = decode_image(file, max_pixels)
            except (UnreadableImageError, OSError) as error:
                unreadable.append((file, str(error)))
                continue
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
            labels = segment(saved.model, pixels, how, device).numpy()
            mask, shown = folder.free(Path(file).stem, [".png", "-overlay.jpg"])
            write_image(mask, saved.code.picture(labels))
            write_image(shown, overlay(picture, labels, saved.code), quality=90)
            counts = np.bincount(labels.ravel(), minlength=IGNORED + 1)[: len(saved.code.classes)]
            shares = {
                saved.code.classes[n]: round(float(counts[n] / labels.size), 6) for n in np.flatnonzero(counts).tolist()
            }
            rows.append({"file": file, "mask": str(mask), "overlay": str(shown), "shares": shares})
    return rows, unreadable
