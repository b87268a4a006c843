"""What ``train`` and ``eval`` share: evaluate a classifier with a progress bar, and tell what came out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from convneur.cli.common import epochs_json, epochs_sentence, last_words, listed_classes
from convneur.data.decode import MAX_PIXELS, decode_image
from convneur.data.module import eval_loader
from convneur.data.sources import Source
from convneur.data.transforms import Preprocessing, eval_transform
from convneur.explain.classifier import Judged, number_rows, report_classifier
from convneur.explain.report import versions
from convneur.files import write_atomic
from convneur.printing import Console, Progress, Table, markdown_code
from convneur.tasks.evaluation import Evaluation, device_for, evaluate

if TYPE_CHECKING:
    from convneur.recipes.fitting import Kept

CARD = """---
library_name: timm
pipeline_tag: image-classification
tags: [image-classification, timm, convneur]
---
# {name}

A ConvNeur image classifier of {count} classes: {classes}. Top-1 on its held-out images: {top1:.1%}.{epochs}

```python
import timm, convneur
model = timm.create_model("local-dir:FOLDER", pretrained=True)  # or hf-hub:USER/NAME
```

`convneur predict IMAGES --model FOLDER` names images. Made with {command}.
"""


def judge(
    model: nn.Module,
    name: str,
    source: Source,
    preprocessing: Preprocessing,
    console: Console,
    scales: tuple[float, ...] = (0.75, 1.5),
    batch_size: int = 64,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
    accelerator: str = "auto",
) -> Judged:
    """Evaluate on the held-out images, at other image sizes too.

    Args:
        model: In eval mode.
        name: For tables.
        source: Whose held-out images are used.
        preprocessing: What the model expects.
        console: For the progress bar.
        scales: Other sizes, over that of ``preprocessing``.
        batch_size: Images at a time.
        workers: Processes that load.
        max_pixels: Larger images are unreadable.
        accelerator: As for training.
    """
    device = device_for(accelerator)
    base, fixed = preprocessing.input_size[1], bool(getattr(model, "pretrained_cfg", {}).get("fixed_input_size"))
    evaluations: dict[int, Evaluation] = {}
    for scale in (1.0,) if fixed else (1.0, *scales):
        size = round(base * scale)
        if size < getattr(model, "total_stride", 32):
            continue  # the model cannot take images as small as that
        at = replace(preprocessing, input_size=(preprocessing.input_size[0], size, size))
        loader = eval_loader(source.val, at, batch_size, workers, max_pixels=max_pixels)
        with Progress(console=console, transient=True) as progress:
            evaluations[size] = evaluate(
                model, progress.track(loader, len(loader), description=f"evaluating at {size} px"), device
            )
    model.cpu()
    tensor = eval_transform(preprocessing)
    plain = eval_transform(
        replace(preprocessing, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), input_size=(3, base, base))
    )

    def look(index: int) -> tuple[torch.Tensor, torch.Tensor]:
        picture = decode_image(source.val.read(index), max_pixels)
        return plain(picture), tensor(picture)

    resolutions = {size: evaluations[size].top1 for size in sorted(evaluations)}
    # Shards can only be read in a row, so there are no pictures of single answers.
    look_up = look if hasattr(source.val, "read") else None
    return Judged(name, model, evaluations[base], source.classes, look_up, resolutions)


def write_judged(
    out: Path,
    judged: Judged,
    command: str,
    curve: Sequence[Mapping[str, float]] = (),
    unreadable: Mapping[str, str] | None = None,
    kept: Sequence[Kept] = (),
) -> None:
    """Write ``metrics.json`` and ``report.html`` to the folder ``out``."""
    told = judged.answers
    numbers = {
        "model": judged.name,
        "images": len(told.labels),
        "top1": told.top1,
        "top5": told.top5,
        "loss": told.loss,
        "calibration_error": told.calibration_error,
        "top1_by_image_size": {str(size): value for size, value in judged.resolutions.items()},
        "per_class": {
            name: None if math.isnan(share) else share
            for name, share in zip(judged.classes, told.per_class().tolist(), strict=True)
        },
        "confusion": told.confusion.tolist(),
        "unreadable": dict(unreadable or {}) | told.unreadable,
        "curve": list(curve),
        **({"models": epochs_json(kept)} if kept else {}),
        "command": command,
        "versions": versions(),
    }
    write_atomic(out / "metrics.json", json.dumps(numbers, indent=2) + "\n")
    title = f"{judged.name} on {len(judged.classes)} classes"
    report_classifier(out / "report.html", title, judged, last_words(command, versions(), kept), curve, unreadable)


def tell(judged: Judged, *last_lines: str) -> None:
    """Print the numbers, what could not be read, and where to look."""
    console = Console()
    table = Table(title=f"{judged.name}, {len(judged.answers.labels):,} held-out images", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for row in number_rows(judged)[1:]:
        table.add_row(*row)
    console.print(table)
    if judged.answers.unreadable:
        name, reason = next(iter(judged.answers.unreadable.items()))
        lost = len(judged.answers.unreadable)
        console.print(f"{lost} files could not be read; the first: {name} ({reason})")
    for line in last_lines:
        console.print(line)


def card(name: str, judged: Judged, command: str, kept: Sequence[Kept] = ()) -> str:
    """Model card."""
    return CARD.format(
        name=name,
        count=len(judged.classes),
        classes=listed_classes(judged.classes),
        top1=judged.answers.top1,
        command=markdown_code(command),
        epochs=epochs_sentence(kept),
    )
