"""Folders of images, one a class, with or without folders of the parts above them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from convneur.data.formats.images import FileImages, Images
from convneur.data.image_files import find_image_files, looks_like_image, unused_notes
from convneur.data.labels import check_names, shown_names
from convneur.data.paths import is_clutter
from convneur.data.split import Source, Wanted, assemble, need_two
from convneur.data.split_names import Part, find_parts, look_alike, part_of


def open_class_folders(root: Path, wanted: Wanted) -> Source:
    """Find the images of a folder.

    Raises:
        ValueError: If it has no such folders, one is empty, or what is a part and what a class cannot be told.
    """
    folders = _subfolders(root)
    parts, notes = find_parts(folders, root), _loose_notes(root)
    if pair := look_alike(set(folders) - set(parts.values())):
        raise ValueError(
            f"{root} has {pair[0]} and {pair[1]}, which look like parts, not classes; call them train, val or test"
        )
    if parts:
        _refuse_classes_beside(root, parts.values(), folders)

    needs_two = wanted.learns and ("train" in parts or not parts)

    def read(part: Part, classes: list[str] | None) -> tuple[Images, list[str]]:
        place = root / parts[part] if parts else root
        if place != root:
            notes.extend(_loose_notes(place))
        found = _class_folders(place)
        if classes is None:
            _need_classes(place, found, 2 if needs_two else 1)
            return _images(place, found, notes, may_lack=not needs_two), found
        if unknown := sorted(set(found) - set(classes)):
            raise ValueError(
                f"{place} has classes that {root / parts['train']} has not: {shown_names(unknown)}; make them the same"
            )
        return _images(place, classes, notes, may_lack=True), classes

    there: dict[Part, str] = {part: f"folder {name}" for part, name in parts.items()} or {"train": "the images"}
    return assemble(str(root), there, read, wanted, notes)


def _subfolders(root: Path) -> list[str]:
    names = (entry.name for entry in os.scandir(root) if entry.is_dir())
    return sorted(name for name in names if not name.startswith(".") and not is_clutter(name))


def _class_folders(root: Path) -> list[str]:
    classes = _subfolders(root)
    check_names(classes, str(root))
    if mistaken := [name for name in classes if part_of(name)]:
        raise ValueError(
            f"{root} has {mistaken[0]}, which looks like a part and not like a class; move it beside the other parts, "
            "or give the class another name"
        )
    for name in classes if len(classes) > 1 else ():
        if within := [each for each in _subfolders(root / name) if part_of(each)]:
            raise ValueError(
                f"{root / name} has the folder {within[0]}, and parts stand above the classes; move its images to "
                f"{within[0]}/{name}, or give the folder another name"
            )
    return classes


def _need_classes(root: Path, classes: Sequence[str], least: int) -> None:
    if len(classes) == 1 and len(inner := _subfolders(root / classes[0])) > 1:
        raise ValueError(
            f"{root} has only one class, {classes[0]!r}; if {shown_names(inner)} are the classes or parts, give "
            f"{root / classes[0]}"
        )
    if len(classes) < least:
        need_two(classes, str(root), f"folders of images, one a class{_other_kind(root)}")


def _other_kind(root: Path) -> str:
    """How to name what a folder holds that is of another kind."""
    if any(root.glob("*.tar")):
        return f"; its shards are read as wds:{root}"
    places = (root, root.parent) if part_of(root.name) else (root,)
    if lists := [file for place in places for file in sorted(place.glob("*.csv"))]:
        return f"; images that {lists[0].name} labels are read as {lists[0]}"
    for folder in (root.parent, root):
        if any((folder / name).is_file() for name in ("dataset_dict.json", "dataset_info.json")):
            return f"; data saved by the package datasets are read as hf:{folder}"
    return ""


def _refuse_classes_beside(root: Path, parts: Iterable[str], folders: Sequence[str]) -> None:
    """Parts and classes in one folder: one of them is mistaken, and a class may be called train."""
    for name in sorted(set(folders) - set(parts)):
        places = (Path(path).relative_to(root).parts[:-1] for path in find_image_files(root / name).files)
        if any(not any(map(part_of, place)) for place in places):
            raise ValueError(
                f"{root} has {', '.join(sorted(parts))}, which look like parts, beside {name}, which has images, too; "
                "move one or the other, or give the class another name"
            )


def _images(root: Path, classes: Sequence[str], notes: list[str], may_lack: bool = False) -> FileImages:
    paths: list[str] = []
    labels: list[int] = []
    unused: list[str] = []
    for label, name in enumerate(classes):
        found = find_image_files(root / name) if (root / name).is_dir() else None
        if found is not None:
            unused += found.unused
            paths += found.files
            labels += [label] * len(found.files)
        if not may_lack and (found is None or not found.files):
            why = f" ({unused_notes(found.unused)[0]})" if found is not None and found.unused else ""
            raise ValueError(
                f"{root / name} has no images; add some (.jpg, .png, .webp, ...) or remove the folder{why}"
            )
    if not paths:
        raise ValueError(f"{root} has no images; add some (.jpg, .png, .webp, ...)")
    notes += unused_notes(unused)
    return FileImages(paths, labels)


def _loose_notes(root: Path) -> list[str]:
    """Images beside the folders of classes, and in hidden ones."""
    loose = sorted(path.name for path in root.iterdir() if _is_loose(path))
    notes = []
    if loose:
        notes.append(
            f"{len(loose):,} {'image lies' if len(loose) == 1 else 'images lie'} beside the folders of {root} and in "
            f"none of a class; left out; the first: {loose[0]}"
        )
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if entry.is_dir() and entry.name.startswith(".") and not is_clutter(entry.name):
            found = find_image_files(entry.path)
            if count := len(found.files) + len(found.unused):
                notes.append(f"{count:,} image{'' if count == 1 else 's'} in the hidden folder {entry.path} left out")
    return notes


def _is_loose(path: Path) -> bool:
    return bool(path.suffix) and path.is_file() and not is_clutter(path.name) and looks_like_image(path)
