"""Images with what is on them, wherever people keep them: one argument, whatever the kind.

| ``--data`` | what |
|---|---|
| a folder with ``instances_train*.json`` and ``instances_val*.json``, or with ``annotations/`` that has them | COCO |
| a folder with ``train`` and ``valid``, with ``_annotations.coco.json`` beside the images | COCO, as Roboflow has it |
| a folder with ``Annotations``, ``JPEGImages`` and ``ImageSets`` | Pascal VOC |
| a folder with ``images`` and ``labels``, and ``data.yaml`` | YOLO |
| a folder with ``data.yaml``, ``train/images``, ``train/labels`` and the like | YOLO, as Roboflow has it |
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from convneur.data.objects.annotations import ObjectImages, ObjectSource
from convneur.data.objects.coco import read_coco
from convneur.data.objects.labelled import check_labelled
from convneur.data.objects.voc import read_voc
from convneur.data.objects.yolo import read_description, read_yolo
from convneur.data.split import share_of, stratified_split
from convneur.data.split_names import Judged, Part, find_parts, group_files, no_part
from convneur.files import StrPath

VAL_SHARE, SEED = 0.2, 0  # of the training images, where none are called validation
EMPTY = ObjectImages([], [], [], [])


@dataclass(frozen=True)
class _Kind:
    """Annotations of one kind.

    Attributes:
        there: What the parts that there are are called.
        read: Reads some of them, in order; all have the same classes.
    """

    there: dict[Part, str]
    read: Callable[[Sequence[Part], list[str] | None], ObjectSource]


def open_objects(
    data: StrPath, part: Judged = "val", known: Sequence[str] | None = None, with_masks: bool = False
) -> ObjectSource:
    """Read and check the annotations of a folder; images are read as they are needed.

    What is called validation is judged by, or a fifth of the training images where nothing is. What is called test is
    left alone unless ``part`` asks for it.

    Args:
        data: The folder.
        part: To judge by.
        known: Names of the classes, where only the images to judge by are wanted; there are none to train on then.
        with_masks: Whether every object must have an outline.

    Raises:
        FileNotFoundError: If there is no such folder, or a file that it should have is missing.
        ValueError: If it is of no known kind, has no such part, or two for one, an annotation makes no sense, or there
            is nothing to learn from or to judge by; one line with file and number.
    """
    data = os.fspath(data)
    source = _opened(Path(data).expanduser(), part, known, with_masks)
    _refuse_shared(source, data)
    for images, place, learned in ((source.train, "train", True), (source.val, part, False)):
        if not learned or known is None:
            source.notes.extend(check_labelled(images, f"{data}, {place}", source.classes, learned, source.notes))
        if with_masks:
            images.check_masks(source.classes)
    return source


def _refuse_shared(source: ObjectSource, data: str) -> None:
    """What is learned from is never judged by; a file may be listed in two ways."""
    learned = {os.path.realpath(source.train.name(number)) for number in range(len(source.train))}
    names = [source.val.name(number) for number in range(len(source.val))] if learned else []
    if shared := [name for name in names if os.path.realpath(name) in learned]:
        raise ValueError(
            f"{data}: {len(shared)} of the {len(names)} images to judge by are learned from, too, the first "
            f"{shared[0]}; leave each in one of the two"
        )


def _opened(root: Path, part: Judged, known: Sequence[str] | None, with_masks: bool) -> ObjectSource:
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}; give one with images and annotations")
    kind = _kind(root, with_masks)
    there, names = kind.there, None if known is None else list(known)
    if known is None and "train" not in there:
        raise no_part(root, "train", there)
    if part in there:
        source = kind.read([part] if known is not None else ["train", part], names)
        return replace(source, held_out=there[part])
    if part == "test" or "train" not in there:
        raise no_part(root, part, there)
    source = kind.read(["train"], names)
    split = stratified_split([0] * len(source.val), VAL_SHARE, SEED, ["of all images"])
    learned = source.val.part(split.train) if known is None else EMPTY
    held_out = share_of(VAL_SHARE, there["train"], SEED)
    held_out += f" ({there['test']} is kept for eval --part test)" if "test" in there else ""
    return replace(source, train=learned, val=source.val.part(split.val), held_out=held_out)


def _kind(root: Path, with_masks: bool) -> _Kind:
    """What kind of annotations a folder has, and which parts."""
    for folder in (root, root / "annotations"):
        files = {path.name.removeprefix("instances_"): path for path in folder.glob("instances_*.json")}
        groups, _ = group_files(map(Path, files), folder)
        for part, named in groups.items():
            if len(named) > 1:
                raise ValueError(
                    f"{folder} has instances_{named[0]} and instances_{named[1]}; leave one of them there, to say "
                    f"which is meant by the part {part}"
                )
        if groups:
            return _coco_kind(root, {part: files[named[0].name] for part, named in groups.items()}, with_masks)
    beside = find_parts((path.parent.name for path in root.glob("*/_annotations.coco.json")), root)
    if beside:
        named_so = {part: root / name / "_annotations.coco.json" for part, name in beside.items()}
        return _coco_kind(root, named_so, with_masks)
    if (root / "Annotations").is_dir() and (root / "ImageSets").is_dir():
        lists = root / "ImageSets" / "Main"
        names = {path.stem for path in lists.glob("*.txt")}
        parts = find_parts(names, lists)
        if "train" not in parts and "trainval" in names:  # to learn from and to judge by, in one list
            parts["train"] = "trainval"
        return _Kind({part: f"list {name}.txt" for part, name in parts.items()}, lambda p, k: _voc(root, parts, p, k))
    if (root / "images").is_dir() and (root / "labels").is_dir():
        parts = find_parts((path.name for path in (root / "images").iterdir() if path.is_dir()), root / "images")
        if not parts:
            raise ValueError(
                f"{root / 'images'} has no folder of a part; move its images into images/train and images/val, and "
                "their labels into labels/train and labels/val"
            )
        return _yolo_kind(root, parts, "images/{}", "labels/{}")
    own = find_parts((path.parent.name for path in root.glob("*/images") if (path.parent / "labels").is_dir()), root)
    if own:
        return _yolo_kind(root, own, "{}/images", "{}/labels")
    others = sorted([*root.glob("*.json"), *root.glob("annotations/*.json")])
    raise ValueError(
        f"{root} is of no known kind; it needs instances_train.json and instances_val.json (COCO), Annotations, "
        "JPEGImages and ImageSets (VOC), or images, labels and data.yaml (YOLO)"
        + (f"; if {others[0].relative_to(root)} is in COCO's form, call it instances_train.json" if others else "")
    )


def _coco_kind(root: Path, files: Mapping[Part, Path], with_masks: bool) -> _Kind:
    there: dict[Part, str] = {
        part: f"folder {file.parent.name}" if file.name.startswith("_") else file.name for part, file in files.items()
    }
    return _Kind(there, lambda parts, _: _coco(root, [files[part] for part in parts], with_masks))


def _yolo_kind(root: Path, names: Mapping[Part, str], images: str, labels: str) -> _Kind:
    """``images`` and ``labels`` are folders of a part, by its name."""
    places = {part: (root / images.format(name), root / labels.format(name)) for part, name in names.items()}
    there: dict[Part, str] = {part: f"folder {name}" for part, name in names.items()}
    return _Kind(there, lambda parts, _: _yolo(root, [places[part] for part in parts]))


def _voc(root: Path, names: Mapping[Part, str], parts: Sequence[Part], known: list[str] | None) -> ObjectSource:
    images, classes, notes = EMPTY, known, list[str]()
    if len(parts) == 2:
        images, classes, notes = read_voc(root, names[parts[0]], known)
    held_out, classes, more = read_voc(root, names[parts[-1]], classes)
    return ObjectSource(images, held_out, classes, list(range(1, len(classes) + 1)), notes + more)


def _yolo(root: Path, places: Sequence[tuple[Path, Path]]) -> ObjectSource:
    """Images and labels; the last are to judge by, the first, if there are two, to train on."""
    description = read_description(root)
    images, notes = read_yolo(root, *places[0], description) if len(places) == 2 else (EMPTY, [])
    held_out, more = read_yolo(root, *places[-1], description)
    classes = description.classes
    return ObjectSource(images, held_out, classes, list(range(1, len(classes) + 1)), notes + more)


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
