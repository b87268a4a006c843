"""Images with what is on them, wherever people keep them: one argument, whatever the kind.

| ``--data`` | what |
|---|---|
| a folder with ``instances_train*.json`` and ``instances_val*.json``, or with ``annotations/`` that has them | COCO |
| a folder with ``train`` and ``valid``, with ``_annotations.coco.json`` beside the images | COCO, as Roboflow has it |
| a folder with ``Annotations``, ``JPEGImages`` and ``ImageSets`` | Pascal VOC |
| a folder with ``images`` and ``labels``, and ``data.yaml`` | YOLO |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from convneur.data.objects.annotations import ObjectImages, ObjectSource
from convneur.data.objects.coco import read_coco
from convneur.data.objects.labelled import check_labelled
from convneur.data.objects.voc import read_voc
from convneur.data.objects.yolo import read_description, read_yolo

TRAIN = ("train",)
HELD_OUT = {"val": ("val", "valid"), "test": ("test",)}  # names that a part goes by
EMPTY = ObjectImages([], [], [], [])


def open_objects(
    data: str | Path, held_out: str = "val", known: Sequence[str] | None = None, with_masks: bool = False
) -> ObjectSource:
    """Read and check the annotations of a folder; images are read as they are needed.

    Args:
        data: The folder.
        held_out: Part to judge by: ``val`` or ``test``.
        known: Names of the classes, where only the images to judge by are wanted; there are none to train on then.
        with_masks: Whether every object must have an outline.

    Raises:
        FileNotFoundError: If there is no such folder, or a file that it should have is missing.
        ValueError: If it is of no known kind, an annotation makes no sense, or there is nothing to learn from or to
            judge by; one line with file and number.
    """
    source = _opened(data, held_out, known, with_masks)
    for images, place, learned in ((source.train, "train", True), (source.val, held_out, False)):
        if not learned or known is None:
            source.notes.extend(check_labelled(images, f"{data}, {place}", source.classes, learned, source.notes))
        if with_masks:
            images.check_masks(source.classes)
    return source


def _opened(data: str | Path, held_out: str, known: Sequence[str] | None, with_masks: bool) -> ObjectSource:
    root, names = Path(data).expanduser(), HELD_OUT[held_out]
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}; give one with images and annotations")
    train = known is None
    wanted = [*([TRAIN] if train else []), names]
    for folder in (root, root / "annotations"):
        files = [_one(folder, part) for part in wanted]
        if all(files):
            return _coco(root, [file for file in files if file], with_masks)
    beside = [next(iter(_existing(root / n / "_annotations.coco.json" for n in part)), None) for part in wanted]
    if all(beside):
        return _coco(root, [file for file in beside if file], with_masks)
    if (root / "Annotations").is_dir() and (root / "ImageSets").is_dir():
        images, classes, notes = (EMPTY, list(known), []) if known is not None else read_voc(root, "train")
        judged, _, more = read_voc(root, held_out, classes)
        return ObjectSource(images, judged, classes, list(range(1, len(classes) + 1)), notes + more)
    if (root / "images").is_dir() and (root / "labels").is_dir():
        description = read_description(root)
        part = next((name for name in names if (root / "images" / name).is_dir()), names[0])
        judged, more = read_yolo(root, part, description)
        learned, notes = read_yolo(root, "train", description) if train else (EMPTY, [])
        classes = description.classes
        return ObjectSource(learned, judged, classes, list(range(1, len(classes) + 1)), notes + more)
    raise ValueError(
        f"{root} is of no known kind; it needs instances_train.json and instances_{held_out}.json (COCO), Annotations, "
        "JPEGImages and ImageSets (VOC), or images, labels and data.yaml (YOLO)"
    )


def _one(folder: Path, part: Sequence[str]) -> Path | None:
    """The file of a part; None if there is none."""
    files = [file for name in part for file in sorted(folder.glob(f"instances_{name}*.json"))]
    if len(files) > 1:
        raise ValueError(
            f"{folder} has {files[0].name} and {files[1].name}; leave one of them there, to say which is meant"
        )
    return files[0] if files else None


def _existing(files: Iterable[Path]) -> list[Path]:
    return [file for file in files if file.is_file()]


def _coco(root: Path, files: Sequence[Path], with_masks: bool) -> ObjectSource:
    """The last is to judge by; the first, if there are two, to train on."""
    held_out, classes, numbers, notes = read_coco(files[-1], _folders(root, files[-1]), root, with_masks)
    if len(files) == 1:
        return ObjectSource(EMPTY, held_out, classes, numbers, notes)
    images, train_classes, train_numbers, more = read_coco(files[0], _folders(root, files[0]), root, with_masks)
    if (classes, numbers) != (train_classes, train_numbers):
        raise ValueError(f"{files[0].name} and {files[-1].name} have different categories; give both the same list")
    return ObjectSource(images, held_out, classes, numbers, more + notes)


def _folders(root: Path, file: Path) -> list[Path]:
    """Where people keep the images of a file."""
    split = file.stem.removeprefix("instances_")
    return [root / "images", root / split, root / "images" / split, root, file.parent]
