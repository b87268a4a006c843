"""Images with what is on them, wherever people keep them: one argument, whatever the kind.

| ``--data`` | what |
|---|---|
| a folder with ``instances_train*.json`` and ``instances_val*.json``, or with ``annotations/`` that has them | COCO |
| the same with ``train.json``, ``annotations_val.json`` and the like | COCO |
| a folder with ``train`` and ``valid``, with ``_annotations.coco.json`` beside the images | COCO, as Roboflow has it |
| a folder with ``Annotations``, ``JPEGImages`` and ``ImageSets`` | Pascal VOC |
| a folder with ``images`` and ``labels``, and ``data.yaml`` | YOLO |
| a folder with ``data.yaml``, ``train/images``, ``train/labels`` and the like | YOLO, as Roboflow has it |
| ``data.yaml`` itself | the same, or the folders that it names |
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from convneur.data.objects.annotations import ObjectImages, ObjectSource
from convneur.data.objects.coco import read_coco
from convneur.data.objects.labelled import check_labelled
from convneur.data.objects.voc import read_voc
from convneur.data.objects.yolo import (
    YAML,
    described_folders,
    description_of,
    labels_of,
    read_description,
    read_yolo,
)
from convneur.data.other_tasks import tells_other_tasks
from convneur.data.paths import is_clutter
from convneur.data.split import Wanted, has_part, take_share
from convneur.data.split_names import Judged, Part, find_parts, group_files, no_part, part_of
from convneur.files import StrPath

EMPTY = ObjectImages([], [], [], [])


@dataclass(frozen=True)
class _Kind:
    """Annotations of one kind.

    Attributes:
        there: What the parts that there are are called.
        read: Reads one of them, as what is judged by; with the classes given, or those that it has.
    """

    there: dict[Part, str]
    read: Callable[[Part, list[str] | None], ObjectSource]


@tells_other_tasks("detection")
def open_objects(
    data: StrPath,
    part: Judged = "val",
    known: Sequence[str] | None = None,
    with_masks: bool = False,
    val_share: float | None = 0.2,
    seed: int = 0,
    hold_out: bool = False,
) -> ObjectSource:
    """Read and check the annotations of a folder; images are read as they are needed.

    What is called validation is judged by, or a share of the training images where nothing is. What is called test is
    left alone unless ``part`` asks for it.

    Args:
        data: The folder, or the description in a folder of YOLO's.
        part: To judge by.
        known: Names of the classes, where only the images to judge by are wanted; there are none to train on then.
        with_masks: Whether every object must have an outline.
        val_share: Share to hold out where the data has no validation images; None to judge by all of them, where
            nothing is learned.
        seed: Of that choice.
        hold_out: Judge by that share of the training images even where there are validation images.

    Raises:
        FileNotFoundError: If there is no such folder, or a file that it should have is missing.
        ValueError: If it is of no known kind, has no such part, or two for one, an annotation makes no sense, or there
            is nothing to learn from or to judge by; one line with file and number.
    """
    data = os.fspath(data)
    source = _opened(Path(data).expanduser(), part, known, with_masks, val_share, seed, hold_out)
    _refuse_shared(source, data)
    for images, place, learned in ((source.train, "train", True), (source.val, part, False)):
        if not learned or known is None:
            source.notes.extend(check_labelled(images, f"{data}, {place}", source.classes, learned, source.notes))
        if with_masks:
            images.check_masks(source.classes)
    return source


def is_for_detection(root: Path) -> bool:
    """Whether a folder has annotations of a known kind."""
    try:
        return bool(_kind(root, False).there)
    except (ValueError, OSError):
        return False


def _refuse_shared(source: ObjectSource, data: str) -> None:
    """What is learned from is never judged by; a file may be listed in two ways."""
    learned = {os.path.realpath(source.train.name(number)) for number in range(len(source.train))}
    names = [source.val.name(number) for number in range(len(source.val))] if learned else []
    if shared := [name for name in names if os.path.realpath(name) in learned]:
        raise ValueError(
            f"{data}: {len(shared)} of the {len(names)} images to judge by are learned from, too, the first "
            f"{shared[0]}; leave each in one of the two"
        )


def _opened(
    data: Path,
    part: Judged,
    known: Sequence[str] | None,
    with_masks: bool,
    val_share: float | None,
    seed: int,
    hold_out: bool,
) -> ObjectSource:
    described = data.is_file() and data.suffix.lower() in YAML
    root = data.parent if described else data
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}; give one with images and annotations")
    kind = _described_kind(data) if described else _kind(root, with_masks)
    there, names = kind.there, None if known is None else list(known)
    if known is None and "train" not in there:
        raise no_part(root, "train", there)
    wanted = Wanted(val_share, seed, part, learns=False)
    if has_part(root, there, wanted) and not (hold_out and known is None):
        source = kind.read(part, names) if known is not None else _with_train(kind, part)
        return replace(source, held_out=there[part])
    source = kind.read("train", names)
    split, held_out = take_share([0] * len(source.val), there, wanted, ["of all images"])
    if split is None:
        return replace(source, held_out=held_out)
    learned = source.val.part(split.train) if known is None else EMPTY
    return replace(source, train=learned, val=source.val.part(split.val), held_out=held_out)


def _with_train(kind: _Kind, part: Part) -> ObjectSource:
    """What is to learn from, and the part to judge by."""
    learned = kind.read("train", None)
    judged = kind.read(part, learned.classes)
    if (learned.classes, learned.category_ids) != (judged.classes, judged.category_ids):
        raise ValueError(
            f"{kind.there['train']} and {kind.there[part]} have different categories; give both the same list"
        )
    return replace(judged, train=learned.val, notes=learned.notes + judged.notes)


def _kind(root: Path, with_masks: bool) -> _Kind:
    """What kind of annotations a folder has, and which parts."""
    if files := _annotation_files(root, "instances_*.json"):
        return _coco_kind(root, files, with_masks)
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
        return _Kind(
            {part: f"list {name}.txt" for part, name in parts.items()},
            lambda p, k: _numbered(*read_voc(root, parts[p], k)),
        )
    if kind := _yolo_kind(root, description_of(root)):
        return kind
    if files := _annotation_files(root, "*.json"):
        return _coco_kind(root, files, with_masks)
    others = sorted([*root.glob("*.json"), *root.glob("annotations/*.json")])
    raise ValueError(
        f"{root} is of no known kind; it needs instances_train.json and instances_val.json (COCO), Annotations, "
        "JPEGImages and ImageSets (VOC), or images, labels and data.yaml (YOLO)"
        + (f"; if {others[0].relative_to(root)} is in COCO's form, call it instances_train.json" if others else "")
    )


def _annotation_files(root: Path, pattern: str) -> dict[Part, Path]:
    """The file of each part, in the folder or in ``annotations``, by a word in its name."""
    for folder in (root, root / "annotations"):
        groups, _ = group_files((path for path in folder.glob(pattern) if not is_clutter(path.name)), folder)
        for part, files in groups.items():
            if len(files) > 1:
                raise ValueError(
                    f"{folder} has {files[0].name} and {files[1].name}; leave one of them there, to say which is meant "
                    f"by the part {part}"
                )
        if groups:
            return {part: files[0] for part, files in groups.items()}
    return {}


def _coco_kind(root: Path, files: Mapping[Part, Path], with_masks: bool) -> _Kind:
    there: dict[Part, str] = {
        part: f"folder {file.parent.name}" if file.name.startswith("_") else file.name for part, file in files.items()
    }

    def read(part: Part, _: list[str] | None) -> ObjectSource:
        return ObjectSource(EMPTY, *read_coco(files[part], _folders(root, files[part], part), root, with_masks))

    return _Kind(there, read)


def _described_kind(file: Path) -> _Kind:
    """That of a description which is given itself."""
    kind = _yolo_kind(file.parent, file)
    if kind is None:
        raise ValueError(
            f"{file} names no folder of images that is in {file.parent}; write train: images/train, and put it into "
            "the folder of the data"
        )
    return kind


def _yolo_kind(root: Path, description: Path) -> _Kind | None:
    """Parts are where the description says, if there are images, or the folders of their names."""
    images, places = root / "images", dict[Part, Path]()
    if images.is_dir() and (root / "labels").is_dir():
        places |= _under(images, (path.name for path in images.iterdir() if path.is_dir()))
    if not places:
        own = (path.parent.name for path in root.glob("*/images") if (path.parent / "labels").is_dir())
        places = {part: path / "images" for part, path in _under(root, own).items()}
    for part, folder in described_folders(root, description).items():
        if not any(folder in place.parents for place in places.values()):  # or it would be in two parts
            places[part] = folder
    if not places and images.is_dir() and (root / "labels").is_dir():
        places = {"train": images}  # all of them
    there: dict[Part, str] = {part: f"folder {_called(path.relative_to(root))}" for part, path in places.items()}
    return _Kind(there, lambda part, _: _yolo(root, description, places[part])) if places else None


def _under(folder: Path, names: Iterable[str]) -> dict[Part, Path]:
    return {part: folder / name for part, name in find_parts(names, folder).items()}


def _called(path: Path) -> str:
    """The step of a path that says a part; all of it if none does."""
    return next((step for step in reversed(path.parts) if part_of(step)), str(path))


def _yolo(root: Path, file: Path, place: Path) -> ObjectSource:
    description = read_description(file)
    images, notes = read_yolo(root, place, labels_of(root, place), description)
    return _numbered(images, description.classes, notes)


def _numbered(images: ObjectImages, classes: list[str], notes: list[str]) -> ObjectSource:
    """Of a format that has no numbers of its own for classes."""
    return ObjectSource(EMPTY, images, classes, list(range(1, len(classes) + 1)), notes)


def _folders(root: Path, file: Path, part: Part) -> list[Path]:
    """Where people keep the images of a file: folders of its own name first, then others of the part."""
    own, places = file.stem.removeprefix("instances_"), [root, root / "images"]
    named = (path for place in places if place.is_dir() for path in sorted(place.iterdir()) if path.is_dir())
    alike = [path for path in named if part_of(path.name) == part]
    return [root / "images", root / own, root / "images" / own, *alike, root, file.parent]
