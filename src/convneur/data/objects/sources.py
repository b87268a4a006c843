"""Images with what is on them, wherever people keep them: one argument, whatever the kind.

| ``--data`` | what |
|---|---|
| a folder with ``instances_train*.json`` and ``instances_val*.json``, or with ``annotations/`` that has them | COCO |
| a folder with ``train`` and ``valid``, with ``_annotations.coco.json`` beside the images | COCO, as Roboflow has it |
| a folder with ``Annotations``, ``JPEGImages`` and ``ImageSets`` | Pascal VOC |
| a folder with ``images`` and ``labels``, and ``data.yaml`` | YOLO |
"""

from __future__ import annotations

from pathlib import Path

from convneur.data.objects.annotations import ObjectSource
from convneur.data.objects.coco import read_coco
from convneur.data.objects.voc import read_voc
from convneur.data.objects.yolo import read_names, read_yolo


def open_objects(data: str | Path) -> ObjectSource:
    """Read the annotations of a folder; images are read as they are needed.

    Raises:
        FileNotFoundError: If there is no such folder, or a file that it should have is missing.
        ValueError: If it is of no known kind, or an annotation makes no sense; one line with file and number.
    """
    root = Path(data).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}; give one with images and annotations")
    for folder in (root, root / "annotations"):
        train, val = (sorted(folder.glob(f"instances_{split}*.json")) for split in ("train", "val"))
        if train and val:
            return _coco(root, train[0], val[0])
    beside = [root / split / "_annotations.coco.json" for split in ("train", "valid")]
    if all(file.is_file() for file in beside):
        return _coco(root, *beside)
    if (root / "Annotations").is_dir() and (root / "ImageSets").is_dir():
        images, classes, notes = read_voc(root, "train")
        held_out, _, more = read_voc(root, "val", classes)
        return ObjectSource(images, held_out, classes, list(range(1, len(classes) + 1)), notes + more)
    if (root / "images").is_dir() and (root / "labels").is_dir():
        names = read_names(root)
        held_out_name = next((name for name in ("val", "valid", "test") if (root / "images" / name).is_dir()), "val")
        parts = [read_yolo(root, split, names) for split in ("train", held_out_name)]
        return ObjectSource(parts[0], parts[1], names, list(range(1, len(names) + 1)))
    raise ValueError(
        f"{root} is of no known kind; it needs instances_train.json and instances_val.json (COCO), Annotations, "
        "JPEGImages and ImageSets (VOC), or images, labels and data.yaml (YOLO)"
    )


def _coco(root: Path, train: Path, val: Path) -> ObjectSource:
    images, classes, numbers, notes = read_coco(train, _folders(root, train))
    held_out, val_classes, val_numbers, more = read_coco(val, _folders(root, val))
    if (classes, numbers) != (val_classes, val_numbers):
        raise ValueError(f"{train.name} and {val.name} have different categories; give both the same list")
    return ObjectSource(images, held_out, classes, numbers, notes + more)


def _folders(root: Path, file: Path) -> list[Path]:
    """Where people keep the images of a file."""
    split = file.stem.removeprefix("instances_")
    return [root / "images", root / split, root / "images" / split, root, file.parent]
