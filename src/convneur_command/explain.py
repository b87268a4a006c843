"""``convneur explain``: what each stage's memory did with an image, as pages, pictures and numbers."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from convneur.explain.explanation import Explanation
    from convneur.explain.subject import Subject
    from convneur.models import ConvNeur
    from convneur.outputs import OutputFolder


def explain(
    paths: Annotated[tuple[str, ...], tyro.conf.Positional],
    model: str,
    out: Path = Path("runs/explain"),
    image_size: int | None = None,
    max_megapixels: float = 100.0,
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> int:
    """Show what the memory of each stage did with images: gates, surprise, receptive fields; of a classifier, why.

    Writes per image a page to look at, PNG files of its maps, and the numbers as JSON; docs/explain.md tells how to
    read them. Exit code 0 if any image could be explained, 2 if none.

    Args:
        paths: Image files, folders (searched to the bottom) and globs such as 'photos/*.jpg'.
        model: Folder of a run or model (classifier, detector or segmentation model), hf-hub:USER/NAME, or a name such
            as convneur_m1, with random weights, to see what there is to see.
        out: Folder for what is made.
        image_size: Pixels a side, of a detector's or segmentation model's images the shorter one; what the model was
            made for if not given.
        max_megapixels: Larger images are not read.
        overwrite: Replace what an earlier call wrote to --out; without it, results of other settings are refused.
    """
    from convneur.cli.common import check_size, model_identity, print_table, tell_unreadable
    from convneur.data.image_files import find_images
    from convneur.notes import AlreadyDone, files_hash
    from convneur.outputs import OutputFolder
    from convneur.printing import Console

    console = Console(stderr=True)
    check_size(image_size)
    files = find_images(paths, console.print)
    made_from = {
        "model": model_identity(model),
        "image_list": [len(files), files_hash(*files)],
        "image_size": image_size,
        "max_megapixels": max_megapixels,
    }
    with OutputFolder(out, "explain", overwrite) as folder:
        try:
            folder.check(made_from)
            rows, unreadable = _explain(folder, files, model, image_size, round(max_megapixels * 1e6), console)
            folder.finish([rows, unreadable])
        except AlreadyDone as done:
            console.print(f"convneur: {done}")
            rows, unreadable = done.told
    head, *rows = rows
    print_table(head, rows)
    return tell_unreadable(rows, unreadable, console)


def _explain(
    folder: OutputFolder, files: Sequence[str], model: str, image_size: int | None, max_pixels: int, console: Any
) -> tuple[list[list[str]], list[tuple[str, str]]]:
    """Rows of a table, the first with headings, and the files that could not be read, and why."""
    with console.status("Loading PyTorch"):
        from convneur.cli.explaining import open_subject
        from convneur.data.decode import UnreadableImageError, decode_image
        from convneur.explain.explanation import explain_image
        from convneur.explain.grad_cam import NEEDS
        from convneur.printing import Progress
        from convneur.tasks.evaluation import device_for
    with console.status(f"Loading {model}"):
        subject = open_subject(model, image_size)
    if not subject.trained:
        console.print(f"{model} has no trained weights: its maps show what can be seen, and mean nothing")
    cam = bool(subject.classes) and importlib.util.find_spec("pytorch_grad_cam") is not None
    if subject.classes and not cam:
        console.print(f"{NEEDS}; all else is shown")
    folder.start()
    device = device_for()
    subject.backbone.to(device)
    command = " ".join(["convneur", *sys.argv[1:]])
    rows: list[list[str]] = [["file", *(["answer"] if subject.classes else []), "page"]]
    unreadable: list[tuple[str, str]] = []
    with Progress(console=console, transient=True) as progress:
        for file in progress.track(files, len(files), description="explaining"):
            try:
                image = subject.prepare(decode_image(file, max_pixels))
                subject.refuse_large(image)
            except (UnreadableImageError, OSError) as error:
                unreadable.append((file, str(error)))
                continue
            picture = subject.picture(image)
            told = explain_image(subject.backbone, image.to(device), picture, bool(subject.classes), cam)
            rows.append(_write(file, told, subject, folder, command))
    return rows, unreadable


def _write(file: str, told: Explanation, subject: Subject[ConvNeur], folder: OutputFolder, command: str) -> list[str]:
    """Page, pictures and numbers of one image; its row of the table."""
    from convneur.cli.common import last_words
    from convneur.explain.figures import overlays
    from convneur.explain.page import write_page
    from convneur.explain.report import png, versions
    from convneur.files import write_atomic

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
    facts = {"file": file, "model": subject.name, "command": command, "versions": versions()}
    write_atomic(numbers, json.dumps(facts | told.numbers(subject.classes), indent=1) + "\n")
    lead = f"{name} as {subject.name} takes it, at {told.picture.shape[2]} x {told.picture.shape[1]} px."
    answer = []
    if told.answers is not None:
        answer = [f"{subject.classes[told.answers.top]} ({float(told.answers.probabilities.max()):.1%})"]
        lead += f" It says: {answer[0]}."
    write_page(page, name, lead, told, subject.classes, subject.notes, last_words(command, versions()))
    return [file, *answer, str(page)]
