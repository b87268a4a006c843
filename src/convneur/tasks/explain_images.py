"""Explain what a model does with image files: a page, pictures and numbers for each."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

from convneur.data.decode import UnreadableImageError, decode_image
from convneur.data.image_files import find_images
from convneur.devices import device_for
from convneur.explain.explanation import Explanation, explain_image
from convneur.explain.figures import overlays
from convneur.explain.grad_cam import NEEDS
from convneur.explain.inspected_model import InspectedModel
from convneur.explain.page import write_page
from convneur.files import StrPath, write_atomic
from convneur.models import ConvNeur
from convneur.notes import files_hash, model_identity
from convneur.outputs import OutputFolder, made_once
from convneur.printing import Console, Progress
from convneur.python_calls import python_call
from convneur.reports.page import made_by, png, versions
from convneur.tasks.inspection import open_inspected

Explained = tuple[list[list[str]], list[tuple[str, str]]]


@python_call()
def explain(
    images: StrPath | Sequence[StrPath],
    model: StrPath,
    out: StrPath = "runs/explain",
    *,
    image_size: int | None = None,
    max_megapixels: float = 100.0,
    overwrite: bool = False,
    progress: bool = True,
    command: str = "",
) -> Explained:
    """Show what the memory of each stage did with images: gates, surprise, receptive fields; of a classifier, why.

    Args:
        images: Files, folders and globs.
        model: Folder of a run or model of any task, hf-hub:USER/NAME, or the name of a variant, with random weights.
        out: Folder; per image a page to look at, PNG files of its maps, and the numbers as JSON.
        image_size: As for `convneur.predict`.
        max_megapixels: Larger images are not read.
        overwrite: Replace what an earlier call wrote to ``out``.
        progress: Say what is done, and show a bar, on standard error.
        command: For the pages.

    Returns:
        A table, the first row its head, and the files that could not be read, and why.

    Raises:
        FileExistsError: If ``out`` holds something else.
        FileNotFoundError: If there is no such file or model.
        ValueError: If the model cannot be loaded, or has no memory with gates.
    """
    console, name = Console(stderr=True, quiet=not progress), str(model)
    if image_size is not None and image_size < 1:
        raise ValueError(f"--image-size {image_size} is out of range; give at least 1")
    files = find_images(images, console.print)
    made_from = {
        "model": model_identity(name),
        "image_list": [len(files), files_hash(*files)],
        "image_size": image_size,
        "max_megapixels": max_megapixels,
    }

    def make(folder: OutputFolder) -> Explained:
        with console.status(f"Loading {name}"):
            inspected = open_inspected(name, image_size)
        if not inspected.trained:
            console.print(f"{name} has no trained weights: its maps show what can be seen, and mean nothing")
        return _explain(folder, files, inspected, round(max_megapixels * 1e6), console, command)

    rows, unreadable = made_once(
        OutputFolder(Path(out).expanduser(), "explain", overwrite), made_from, make, console.print
    )
    return rows, unreadable


def _explain(
    folder: OutputFolder,
    files: Sequence[str],
    inspected: InspectedModel[ConvNeur],
    max_pixels: int,
    console: Console,
    command: str,
) -> Explained:
    cam = bool(inspected.classes) and importlib.util.find_spec("pytorch_grad_cam") is not None
    if inspected.classes and not cam:
        console.print(f"{NEEDS}; all else is shown")
    folder.start()
    device = device_for()
    inspected.backbone.to(device)
    rows: list[list[str]] = [["file", *(["answer"] if inspected.classes else []), "page"]]
    unreadable: list[tuple[str, str]] = []
    with Progress(console=console, transient=True) as progress:
        for file in progress.track(files, len(files), description="explaining"):
            try:
                image = inspected.prepare(decode_image(file, max_pixels))
                inspected.refuse_large(image)
            except (UnreadableImageError, OSError) as error:
                unreadable.append((file, str(error)))
                continue
            picture = inspected.picture(image)
            told = explain_image(inspected.backbone, image.to(device), picture, bool(inspected.classes), cam)
            rows.append(_write(file, told, inspected, folder, command))
    return rows, unreadable


def _write(
    file: str, told: Explanation, inspected: InspectedModel[ConvNeur], folder: OutputFolder, command: str
) -> list[str]:
    """Page, pictures and numbers of one image; its row of the table."""
    by_stage = told.stage_layers()
    strips = [
        (layers[0].key, layers, [f"stage {stage}: {layer.title}" for stage, layer in enumerate(layers, start=1)])
        for layers in (list(column) for column in zip(*by_stage, strict=True))
    ]
    strips += [(layers[0].key, layers, [layer.title for layer in layers]) for layers in told.whole_layers()]
    name = Path(file).name
    page, numbers, *pictures = folder.free(Path(file).stem, [".html", ".json", *(f"-{key}.png" for key, *_ in strips)])
    for path, (_, layers, titles) in zip(pictures, strips, strict=True):
        write_atomic(path, png(overlays(told.picture, layers, titles)))
    facts = {"file": file, "model": inspected.name, "command": command, "versions": versions()}
    write_atomic(numbers, json.dumps(facts | told.numbers(inspected.classes), indent=1) + "\n")
    summary = f"{name} as {inspected.name} takes it, at {told.picture.shape[2]} x {told.picture.shape[1]} px."
    answer = []
    if told.answers is not None:
        answer = [f"{inspected.classes[told.answers.top]} ({float(told.answers.probabilities.max()):.1%})"]
        summary += f" It says: {answer[0]}."
    write_page(page, name, summary, told, inspected.classes, inspected.notes, made_by(command))
    return [file, *answer, str(page)]
