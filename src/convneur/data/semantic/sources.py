"""Images and masks wherever people keep them: one argument, whatever the kind.

| ``--data`` | what |
|---|---|
| a folder with ``train``, ``val`` and ``test``, each with ``images`` and ``masks`` | numbers or colours in PNG files |
| a folder with ``images`` and ``masks``, with those in them or not | the same, or split here |
| a folder with ``images`` and ``annotations``, each with ``training`` and ``validation`` | ADE20K: 0 counts nowhere |
| a folder with ``leftImg8bit`` and ``gtFine`` | Cityscapes: 19 of its labels count |

Names stand in ``classes.txt``, one a line, the first being number 0; or, for masks of colours, in ``classes.csv`` with
``name,r,g,b``.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from convneur.data.formats.images import FileImages
from convneur.data.image_files import find_image_files, unused_notes
from convneur.data.labels import FEW
from convneur.data.other_tasks import tells_other_tasks
from convneur.data.paths import class_names, is_clutter, read_text, walk
from convneur.data.semantic.masks import IGNORED, MOST, MaskEncoding, MaskError, some_colours
from convneur.data.split import Wanted, has_part, take_share
from convneur.data.split_names import Judged, Part, find_parts
from convneur.files import StrPath

MASK_FOLDERS = ("masks", "annotations", "labels")
LOOKED_AT = 8  # masks at least, if there are as many
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
# Number in Cityscapes' files of each of the 19 classes that count (Cordts et al., CVPR 2016), and its name and colour.
CITYSCAPES = {
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
CITYSCAPES_LABELS = 34


class PixelImages(FileImages):
    """Image files and the mask of each.

    Args:
        paths: Of the images.
        masks: Of their masks.
    """

    def __init__(self, paths: Sequence[str], masks: Sequence[str]) -> None:
        super().__init__(paths, [0] * len(paths))
        self.masks = FileImages(masks, [0] * len(masks))

    def part(self, numbers: Sequence[int]) -> PixelImages:
        """Some of the images."""
        return PixelImages([self.name(n) for n in numbers], [self.masks.name(n) for n in numbers])


@dataclass(frozen=True)
class PixelSource:
    """Images to train on and held-out ones.

    Attributes:
        train: To learn from.
        val: To judge by.
        code: Classes, and how masks tell them.
        notes: What was left out, and why; for the user.
        held_out: Where ``val`` comes from, in words.
    """

    train: PixelImages
    val: PixelImages
    code: MaskEncoding
    notes: list[str] = field(default_factory=list)
    held_out: str = ""

    @property
    def classes(self) -> list[str]:
        """Names, in the order of the labels."""
        return list(self.code.classes)


@tells_other_tasks("segmentation")
def open_pixels(
    data: StrPath,
    val_share: float | None = 0.2,
    seed: int = 0,
    strict: bool = False,
    part: Judged = "val",
    learns: bool = True,
    hold_out: bool = False,
) -> PixelSource:
    """Find the images and masks of a folder; they are read as they are needed.

    Some masks are looked at: there must be something to learn in them, and something to judge by.

    Args:
        data: The folder.
        val_share: Share to hold out where the data has no validation images; None to judge by all of them.
        seed: Of that choice.
        strict: Refuse images without a mask, which are left out otherwise.
        part: To judge by.
        learns: Whether something is learned; where nothing is, data needs no images to train on.
        hold_out: Judge by ``val_share`` of the training images even where there are validation images.

    Raises:
        FileNotFoundError: If there is no such folder, or it does not say its classes.
        ValueError: If it is of no known kind, has no images with masks, no such part, two folders for a part, or masks
            without a pixel of a class, or of a single one to learn from.
    """
    root = Path(data).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}; give one with images and masks")
    code, there, ends = _layout(root)
    notes: list[str] = []

    def pairs(part: Part) -> PixelImages:
        return _pairs(*there[part].folders, strict, notes, *ends)

    named = {part: place.name for part, place in there.items()}
    learns = learns and val_share is not None and part == "val"
    wanted = Wanted(val_share, seed, part, learns)
    own = has_part(root, named, wanted)
    train = pairs("train") if "train" in there else pairs(part)
    if own and not hold_out:
        val, held_out = pairs(part) if "train" in there else train, named[part]
    else:
        split, held_out = take_share([0] * len(train), named, wanted, ["of images with masks"])
        train, val = (train, train) if split is None else (train.part(split.train), train.part(split.val))
    if learns:
        notes += _looked_at(train, code, 2, "to learn from")
    _looked_at(val, code, 1, "to judge by")
    return PixelSource(train, val, code, notes, held_out)


def is_for_segmentation(root: Path) -> bool:
    """Whether a folder has images and masks as one of the known kinds has them; YOLO's labels are no masks."""
    try:
        masks = (place.folders[1] for place in _layout(root)[1].values())
        return any(path.suffix.lower() in MASK_SUFFIXES for folder in masks for path in walk(folder))
    except (ValueError, OSError):
        return False


class Place(NamedTuple):
    """Where a part is: how it is called, and its folders of images and masks."""

    name: str
    folders: tuple[Path, Path]


def _layout(root: Path) -> tuple[MaskEncoding, dict[Part, Place], tuple[str, ...]]:
    """Classes, parts, and what stands behind the names of images and masks."""
    if (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir():
        there = _inside(root / "leftImg8bit", root / "gtFine")
        return _cityscapes(), there, ("_leftImg8bit", "_gtFine_labelIds")
    named = (root / "classes.txt").exists() or (root / "classes.csv").exists()
    if not named and (root / "annotations" / "training").is_dir() and (root / "images" / "training").is_dir():
        return _ade20k(root), _inside(root / "images", root / "annotations"), ()
    code, images, masks = _listed(root), _child(root, ("images",)), _child(root, MASK_FOLDERS)
    beside = {name: (_child(root / name, ("images",)), _child(root / name, MASK_FOLDERS)) for name in _folders(root)}
    parts = find_parts([name for name, (inner, other) in beside.items() if inner and other], root)
    there = {part: Place(f"folder {name}", cast(tuple[Path, Path], beside[name])) for part, name in parts.items()}
    if images and masks:
        for part, place in _inside(images, masks).items():
            if part in there:
                raise ValueError(
                    f"{root} has the part {part} twice, in {there[part].folders[0]} and {place.folders[0]}; keep one"
                )
            there[part] = place
        if not there:
            return code, {"train": Place("the images", (images, masks))}, ()
    if not there:
        raise ValueError(
            f"{root} is of no known kind; it needs train and val, each with images and masks, or images and masks alone"
        )
    return code, there, ()


def _inside(images: Path, masks: Path) -> dict[Part, Place]:
    """Parts that are folders in those of images and of masks."""
    pictures, labels = find_parts(_folders(images), images), find_parts(_folders(masks), masks)
    return {
        part: Place(f"folder {name}", (images / name, masks / labels[part]))
        for part, name in pictures.items()
        if part in labels
    }


def _folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not is_clutter(path.name))


def _child(root: Path, names: Sequence[str]) -> Path | None:
    """The first folder of one of these names, in small letters, whatever its case."""
    there = {name.lower(): root / name for name in _folders(root)}
    return next((there[name] for name in names if name in there), None)


def _pairs(
    images: Path, masks: Path, strict: bool, notes: list[str], image_end: str = "", mask_end: str = ""
) -> PixelImages:
    """Images that have a mask of the same name."""
    found = find_image_files(images)
    files = [Path(file) for file in found.files if Path(file).stem.endswith(image_end)]
    there = _masks_by_name(masks, mask_end)
    used: set[Path] = set()
    pairs, lonely = [], []
    for file in files:
        place, stem = file.relative_to(images).parent, file.stem.removesuffix(image_end) + mask_end
        mask = there.get(place / stem) or there.get(place / f"{stem}_mask")
        if mask is None:
            lonely.append(file)
        else:
            used.add(mask)
            pairs.append((str(file), str(mask)))
    if not pairs:
        why = f" ({unused_notes(found.unused)[0]})" if found.unused else ""
        raise ValueError(f"{images} has no image with a mask of the same name in {masks}; masks are PNG files{why}")
    if lonely:
        told = f"{len(lonely)} of {len(files)} images in {images} have no mask in {masks}; the first: {lonely[0].name}"
        if strict:
            raise ValueError(f"{told}; add them, or leave --strict out")
        notes.append(f"{told}; they were left out")
        if len(pairs) < FEW * len(files):
            notes.append(f"only {len(pairs) / len(files):.1%} of the images in {images} have a mask; is that meant?")
    if idle := sorted(set(there.values()) - used):
        notes.append(
            f"{len(idle)} of {len(there)} masks in {masks} have no image in {images}; they were left out; the first: "
            f"{idle[0].name}"
        )
    notes += unused_notes(found.unused)
    return PixelImages([image for image, _ in pairs], [mask for _, mask in pairs])


def _masks_by_name(masks: Path, mask_end: str) -> dict[Path, Path]:
    """Masks by their paths without ending; a ValueError if two files are the mask of one image."""
    there: dict[Path, Path] = {}
    for path in walk(masks):
        if path.suffix.lower() in MASK_SUFFIXES and path.stem.endswith(mask_end):
            before = there.setdefault(path.relative_to(masks).with_suffix(""), path)
            if before != path:
                raise ValueError(f"{masks} has {before.name} and {path.name}, two masks of one image; keep one of them")
    return there


def _looked_at(images: PixelImages, code: MaskEncoding, least: int, what: str) -> list[str]:
    """Refuse masks that have pixels of fewer classes; they are looked at, in no order, until so many were seen.

    Returns:
        What to tell if hardly a pixel has a class.
    """
    seen: set[int] = set()
    counted = total = unknown = 0
    faults: list[str] = []
    for looked, index in enumerate(np.random.default_rng(0).permutation(len(images)).tolist(), start=1):
        try:
            labels, odd = code.decode(images.masks.read(index), None)
        except (MaskError, OSError) as error:
            faults.append(f"{images.masks.name(index)}: {error}")
            continue
        seen |= set(np.unique(labels).tolist()) - {IGNORED}
        counted, total, unknown = counted + int((labels != IGNORED).sum()), total + labels.size, unknown + odd
        if looked >= LOOKED_AT and len(seen) >= least:
            break
    if not total:
        raise ValueError(f"none of the {len(images):,} masks {what} can be used; the first: {faults[0]}")
    if not seen:
        why = f"{unknown:,} of {total:,} pixels have a number or colour that is no class, the others count nowhere"
        raise ValueError(
            f"no pixel of the {len(images):,} masks {what} has a class ({why}); the first: {images.masks.name(0)}; "
            "mend the masks, or the list of classes"
        )
    if len(seen) < least:
        raise ValueError(
            f"all {len(images):,} masks {what} have a single class, {code.classes[min(seen)]!r}; the first mask: "
            f"{images.masks.name(0)}; give masks of at least two classes"
        )
    few = counted < FEW * total
    return [f"only {counted / total:.1%} of the pixels of some masks have a class; is that meant?"] if few else []


def _listed(root: Path) -> MaskEncoding:
    """Classes that a file beside the images names."""
    table, names = root / "classes.csv", root / "classes.txt"
    if table.exists():
        try:
            rows = list(csv.DictReader(io.StringIO(read_text(table), newline="")))
            classes = [row["name"].strip() for row in rows]
            colours = np.array([[int(row[c]) for c in "rgb"] for row in rows], np.int64).reshape(-1, 3)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, csv.Error) as error:
            raise ValueError(f"{table} needs a first line name,r,g,b and a line for each class ({error})") from error
        if ((colours < 0) | (colours > 255)).any() or len(np.unique(colours, axis=0)) < len(colours):
            raise ValueError(f"{table} needs a colour of its own for each class, with r, g and b of 0 to 255")
        return MaskEncoding(_checked(classes, table), colours.astype(np.uint8), coloured=True)
    if names.exists():
        classes = class_names(names)
        return MaskEncoding(_checked(classes, names), some_colours(len(classes)))
    raise FileNotFoundError(
        f"{root} does not say its classes; write {names} with a name a line, the first being number 0 of the masks, or "
        "classes.csv with name,r,g,b"
    )


def _checked(classes: list[str], file: Path) -> list[str]:
    if not 2 <= len(classes) <= MOST:
        raise ValueError(f"{file} names {len(classes)} classes; give 2 to {MOST}")
    if twice := [name for name, count in Counter(classes).items() if count > 1]:
        raise ValueError(f"{file} names {twice[0]!r} twice; give each class a name of its own")
    return classes


def _ade20k(root: Path) -> MaskEncoding:
    """150 classes numbered from 1; 0 counts nowhere (Zhou et al., CVPR 2017)."""
    file, classes = root / "objectInfo150.txt", [f"class {number}" for number in range(1, 151)]
    if file.exists():
        lines = [line.split("\t") for line in read_text(file).splitlines()[1:] if line.strip()]
        classes = [line[-1].split(",")[0].strip() for line in lines]
    table = {0: IGNORED} | {number + 1: number for number in range(len(classes))}
    return MaskEncoding(_checked(classes, file), some_colours(len(classes)), table=table)


def _cityscapes() -> MaskEncoding:
    table = dict.fromkeys(range(CITYSCAPES_LABELS), IGNORED)
    table |= {number: place for place, (number, _) in enumerate(CITYSCAPES.values())}
    colours = np.array([colour for _, colour in CITYSCAPES.values()], np.uint8)
    return MaskEncoding(list(CITYSCAPES), colours, table=table)
