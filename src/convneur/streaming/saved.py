"""A saved model, by its name, on an image of any size: what it answers in words, and a picture to look at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from convneur.data.semantic import MaskEncoding
from convneur.devices import device_for
from convneur.files import StrPath, check_folder, write_image
from convneur.models import load_model
from convneur.outputs import OutputFolder
from convneur.printing import status
from convneur.python_calls import python_call
from convneur.streaming.regions import Span
from convneur.streaming.sources import open_large
from convneur.streaming.stream import Streamed, stream
from convneur.tasks.segmentation.saved import load_segmenter, segmenter_folder

PREVIEW = 1600  # pixels of the longer side


@python_call()
def stream_saved(
    model: StrPath,
    image: StrPath,
    sink: StrPath,
    *,
    top_k: int = 3,
    float64: bool = False,
    scratch: StrPath | None = None,
    fill: float | None = None,
    progress: bool = True,
    overwrite: bool = False,
    **options: Any,
) -> Streamed:
    """`stream` with a saved model, on a GPU if there is one.

    Args:
        model: Folder of a run or model, ``hf-hub:USER/NAME``, or a timm name with pretrained weights.
        image: A file; see `open_large`.
        sink: As for `stream`; of a segmentation model there is a preview.jpg, too.
        top_k: Answers of a classifier.
        float64: Compute in double precision; not on a Mac's GPU, which has none.
        scratch, fill, progress, overwrite: As for `stream`.
        **options: Others of `stream`.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If it cannot be loaded; and as `stream`.
    """
    if top_k < 1:
        raise ValueError(f"--top-k {top_k} is out of range; give at least 1")
    out = Path(sink).expanduser()
    if scratch is not None:
        check_folder(Path(scratch).expanduser(), f"--scratch {scratch}")
    with OutputFolder(out, "stream", overwrite):
        code = names = None
        loaded: Any
        with status(f"Loading {model}", progress):
            if segmenter_folder(model) is not None:
                saved = load_segmenter(model)
                loaded, code = saved.model, saved.code
            else:
                loaded, _, names = load_model(model)
        loaded = loaded.to(device_for("cpu" if float64 and not torch.cuda.is_available() else "auto"))
        if float64:
            loaded = loaded.double()
        shared: dict[str, Any] = {"scratch": scratch, "fill": fill, "progress": progress, "overwrite": overwrite}
        found = stream(loaded, image, out, **shared, **options)
        answers: list[tuple[str, float]] = []
        if found.logits is not None:
            scores = found.logits.softmax(1)[0]
            best = scores.topk(min(top_k, len(scores)))
            for score, label in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                answers.append((names[label] if names else str(label), score))
        if found.classes is not None and code is not None:
            said = np.load(found.classes, mmap_mode="r", allow_pickle=False)
            answers = _shares(said, code)
            write_image(out / "preview.jpg", _preview(image, fill, said, code), quality=85)
        return replace(found, answers=tuple(answers))


def _shares(said: np.ndarray[Any, Any], code: MaskEncoding) -> list[tuple[str, float]]:
    """Share of each class, the largest first."""
    counts = np.zeros(256, np.int64)
    for top in range(0, len(said), 1024):
        counts += np.bincount(said[top : top + 1024].ravel(), minlength=256)
    order = np.argsort(-counts)[: len(code.classes)]
    return [(code.classes[number], counts[number] / said.size) for number in order if counts[number]]


def _preview(image: StrPath, fill: float | None, said: np.ndarray[Any, Any], code: MaskEncoding) -> Image.Image:
    """A small picture, with its classes over it."""
    from convneur.tasks.segmentation.report import overlay  # which needs matplotlib

    step = -(-max(said.shape) // PREVIEW)
    source = open_large(image, fill)
    rows = [source.read(Span(row, row + 1), 3)[0, ::step] for row in range(0, source.height, step)]
    picture = Image.fromarray((np.stack(rows) * 255).round().astype(np.uint8))
    return overlay(picture, np.ascontiguousarray(said[::step, ::step]), code)
