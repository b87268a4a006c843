"""``convneur predict``: name images, find objects on them, or mark their pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from torch import Tensor

    from convneur.data.formats.images import FileImages
    from convneur.data.image_files import ImageFiles
    from convneur.outputs import OutputFolder


def predict(
    paths: Annotated[tuple[str, ...], tyro.conf.Positional],
    model: str,
    format: Literal["table", "jsonl", "csv"] = "table",
    top_k: int = 3,
    batch_size: int = 32,
    workers: int | None = None,
    image_size: int | None = None,
    max_megapixels: float = 100.0,
    score: float | None = None,
    out: Path | None = None,
    window: int | None = None,
    flip: tyro.conf.FlagCreatePairsOff[bool] = False,
    trust: tyro.conf.FlagCreatePairsOff[bool] = False,
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> int:
    """Name images, draw what a detector finds, or mark the class of every pixel, as the model can.

    Exit code 0 if any image could be read, 2 if none.

    Args:
        paths: Image files, folders (searched to the bottom) and globs such as 'photos/*.jpg'.
        model: Folder of a run or model, hf-hub:USER/NAME, a timm name with pretrained weights, or a
            file of convneur export.
        format: Table for people; JSON lines or CSV for programs.
        top_k: Answers per image, of a classifier.
        batch_size: Images at a time, for a classifier.
        workers: Processes that load images; as many as suit the machine if not given.
        image_size: Pixels a side, of a detector's or segmentation model's images the shorter one (0: of the latter, as
            they are); what the model was made for if not given.
        max_megapixels: Larger images are not read.
        score: Of a detector: from which a detection is drawn and told; 0.5 if not given.
        out: Folder for the pictures of a detector or a segmentation model; for detections.json with all detections in
            COCO's form; for masks, PNG files whose numbers are the classes. runs/predict if not given.
        window: Of a segmentation model: pixels a side of tiles that are looked at one by one, so that images may be
            huge; 0 for whole images.
        flip: Of a segmentation model: average over the mirrored image, too.
        trust: Load a .pt2 of convneur export, which runs the code in it: only for files from people you trust. Other
            models need none.
        overwrite: Replace what an earlier call wrote to --out; without it, results of other settings are refused.
    """
    from convneur.cli.common import check_size, model_identity, tell_unreadable
    from convneur.notes import files_hash
    from convneur.outputs import OutputFolder
    from convneur.printing import Console

    console = Console(stderr=True)
    for flag, value in (("top-k", top_k), ("batch-size", batch_size)):
        if value < 1:
            raise ValueError(f"--{flag} {value} is out of range; give at least 1")
    if score is not None and not 0 <= score <= 1:
        raise ValueError(f"--score {score} is out of range; give 0 to 1")
    files = find_images(paths, console.print)
    max_pixels = round(max_megapixels * 1e6)
    with console.status("Loading PyTorch"):
        import torch

        from convneur.data.formats.images import FileImages
        from convneur.data.module import eval_loader
        from convneur.data.transforms import Preprocessing
        from convneur.export import open_model
        from convneur.models.prepare_for_inference import prepare_for_inference
        from convneur.printing import Progress
        from convneur.tasks.detection.saved import detector_folder
        from convneur.tasks.evaluation import device_for, require_finite
        from convneur.tasks.segmentation.saved import segmenter_folder

    finds, marks = detector_folder(model) is not None, segmenter_folder(model) is not None
    if not marks:
        check_size(image_size)
    pictures = out or Path("runs/predict")
    made_from = {
        "model": model_identity(model),
        "image_list": [len(files), files_hash(*files)],
        "image_size": image_size,
        "max_megapixels": max_megapixels,
        "score": score,
        "inference": [window, flip],
    }
    if finds:
        from convneur.cli.detecting import find_objects

        _refuse("a detector", {"--window": window, "--flip": flip or None})
        score = 0.5 if score is None else score
        loaders = min(len(files) // 4, 8) if workers is None else workers
        rows, unreadable = _once(
            OutputFolder(pictures, "predict", overwrite),
            made_from,
            lambda folder: find_objects(files, model, folder, score, console, image_size, loaders, max_pixels),
            console,
        )
        _print_objects(rows, format)
        return tell_unreadable(rows, unreadable, console)
    if marks:
        from convneur.cli import segmenting

        _refuse("a segmentation model", {"--score": score})
        check_size(image_size, least=0)
        changes = segmenting.changes_of(image_size, window, None, flip)
        rows, unreadable = _once(
            OutputFolder(pictures, "predict", overwrite),
            made_from,
            lambda folder: segmenting.mark_images(files, model, folder, console, changes, max_pixels),
            console,
        )
        _print_pixels(rows, format)
        return tell_unreadable(rows, unreadable, console)
    with console.status(f"Loading {model}"):
        loaded, config, labels = open_model(model, trust)
    _refuse("a classifier", {"--score": score, "--window": window, "--flip": flip or None})
    if out is not None:
        raise ValueError(f"--out {out} is for pictures, and a classifier makes none; write --format csv > FILE instead")
    names = labels or [str(i) for i in range(config["num_classes"])]
    images = FileImages(files, [0] * len(files))
    preprocessing = Preprocessing.of(config, image_size)
    workers = min(len(files) // batch_size, 8) if workers is None else workers  # a few images need no other process
    loader = eval_loader(images, preprocessing, batch_size, workers, max_pixels=max_pixels)
    device = device_for()
    loaded = prepare_for_inference(loaded, device)
    rows = []
    unreadable = []
    with Progress(console=console, transient=True) as progress, torch.inference_mode():
        for batch in progress.track(loader, len(loader), description="predicting"):
            unreadable += batch.unreadable
            known = batch.labels >= 0
            scores = loaded(batch.images.to(device)).float().cpu()[known]
            require_finite(scores)
            scores = scores.softmax(1)
            rows += _rows(images, batch.indices[known], scores, names, min(top_k, len(names)))
    _print(rows, format)
    return tell_unreadable(rows, unreadable, console)


Found = tuple[list[dict[str, Any]], list[tuple[str, str]]]


def _once(
    folder: OutputFolder, made_from: Mapping[str, Any], make: Callable[[OutputFolder], Found], console: Any
) -> Found:
    """What ``make`` gives, or what it gave when the same was asked before."""
    from convneur.notes import AlreadyDone

    with folder:
        try:
            folder.check(made_from)
        except AlreadyDone as done:
            console.print(f"convneur: {done}")
            rows, unreadable = done.told
            return rows, unreadable
        found = make(folder)
        folder.finish(found)
        return found


def _refuse(kind: str, flags: Mapping[str, object]) -> None:
    """Refuse flags that were given and mean nothing to a model of this kind."""
    for flag, value in flags.items():
        if value is not None:
            raise ValueError(f"{flag} means nothing to {kind}, which this model is; leave it out")


def find_images(paths: Sequence[str], tell: Callable[[str], object] = lambda note: None) -> list[str]:
    """Files that ``paths`` name, in order and without repetition.

    Args:
        paths: Files, folders and globs.
        tell: Called with what to say of files in folders that look like images and are not used.

    Raises:
        FileNotFoundError: If a path names nothing, or a folder holds no images.
        ValueError: For no path, and for an address on the web.
    """
    from convneur.data.image_files import unused_notes

    if not paths:
        raise ValueError("no images given; give image files, folders or globs")
    found: dict[str, None] = {}
    unused: dict[str, None] = {}
    for path in paths:
        if "://" in path:
            raise ValueError(f"{path} is on the web; download it first, then give the file")
        files, others = _expanded(path)
        if not files:
            what = "holds no images" if Path(path).is_dir() else "does not exist"
            why = f" ({unused_notes(others)[0]})" if others else ""
            raise FileNotFoundError(f"{path} {what}; give image files, folders or globs{why}")
        found |= dict.fromkeys(files)
        unused |= dict.fromkeys(others)
    for note in unused_notes([file for file in unused if file not in found]):
        tell(note)
    return list(found)


def _expanded(path: str) -> ImageFiles:
    from convneur.data.image_files import ImageFiles, find_image_files
    from convneur.data.paths import before_wildcards, matching

    path = str(Path(path).expanduser())
    if Path(path).is_dir():
        return find_image_files(path)
    if Path(path).exists():
        return ImageFiles([path], [])
    folder = before_wildcards(Path(path))
    return ImageFiles([str(folder / name) for name in matching(folder, str(Path(path).relative_to(folder)))], [])


def _rows(
    images: FileImages, indices: Tensor, scores: Tensor, names: Sequence[str], top_k: int
) -> list[dict[str, Any]]:
    best = scores.topk(top_k, 1)
    return [
        {
            "file": images.name(int(index)),
            "top": [
                {"label": names[int(label)], "score": round(float(score), 6)}
                for label, score in zip(row_labels, row_scores, strict=True)
            ],
        }
        for index, row_labels, row_scores in zip(indices, best.indices, best.values, strict=True)
    ]


def _print(rows: list[dict[str, Any]], format: str) -> None:
    """Answers on standard output."""
    from convneur.printing import print_csv, print_json

    if format == "jsonl":
        for row in rows:
            print_json(row)
        return
    flat = [
        [str(row["file"]), *(x for answer in row["top"] for x in (answer["label"], answer["score"]))] for row in rows
    ]
    answers = (max(map(len, flat), default=1) - 1) // 2
    if format == "csv":
        head = ["file", *(f"{what}{i + 1}" for i in range(answers) for what in ("label", "score"))]
        print_csv([head, *flat])
    elif flat:
        from convneur.printing import Console, Table

        table = Table(box=None, header_style="bold")
        table.add_column("file", overflow="fold")
        for i in range(answers):
            table.add_column("label" if i == 0 else f"{i + 1}.", style=None if i == 0 else "dim", overflow="fold")
            table.add_column("", justify="right", style=None if i == 0 else "dim")
        for file, *rest in flat:
            table.add_row(file, *(x if isinstance(x, str) else f"{x:.1%}" for x in rest))
        Console().print(table)


def _print_objects(rows: list[dict[str, Any]], format: str) -> None:
    """What was found, on standard output."""
    from convneur.cli.common import print_table

    flat = [[row["file"], each["label"], each["score"], *each["box"]] for row in rows for each in row["objects"]]
    if _for_programs(rows, format, ["file", "label", "score", "x0", "y0", "x1", "y1"], flat):
        return
    counts = [Counter(each["label"] for each in row["objects"]).most_common() for row in rows]
    found = [", ".join(f"{number} {label}" for label, number in each) or "nothing" for each in counts]
    print_table(
        ["file", "found", "picture"], [[r["file"], what, r["picture"]] for r, what in zip(rows, found, strict=True)]
    )


def _print_pixels(rows: list[dict[str, Any]], format: str) -> None:
    """Which classes cover how much, on standard output."""
    from convneur.cli.common import print_table

    flat = [[row["file"], name, share] for row in rows for name, share in row["shares"].items()]
    if _for_programs(rows, format, ["file", "class", "share"], flat):
        return
    most = [sorted(row["shares"].items(), key=lambda each: -each[1])[:4] for row in rows]
    told = [", ".join(f"{name} {share:.0%}" for name, share in each) for each in most]
    print_table(
        ["file", "most of it", "overlay"], [[r["file"], what, r["overlay"]] for r, what in zip(rows, told, strict=True)]
    )


def _for_programs(rows: Sequence[dict[str, Any]], format: str, head: list[str], flat: Sequence[list[Any]]) -> bool:
    """Print JSON lines of the rows, or CSV of ``flat``; whether that was asked for."""
    from convneur.printing import print_csv, print_json

    if format == "jsonl":
        for row in rows:
            print_json(row)
    elif format == "csv":
        print_csv([head, *flat])
    return format != "table"
