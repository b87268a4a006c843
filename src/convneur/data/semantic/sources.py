"""Images and masks wherever people keep them: one argument, whatever the kind.

| ``--data`` | what |
|---|---|
| a folder with ``train`` and ``val``, each with ``images`` and ``masks`` | numbers or colours in PNG files |
| a folder with ``images`` and ``masks``, with ``train`` and ``val`` in them or not | the same, or split here |
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

import numpy as np

from convneur.data.decode import SUFFIXES
from convneur.data.paths import read_text
from convneur.data.semantic.masks import IGNORED, MOST, MaskCode, some_colours
from convneur.data.sources import TRAIN_NAMES, VAL_NAMES, FileImages
from convneur.data.split import stratified_split

MASK_FOLDERS = ("masks", "annotations", "labels")
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


@dataclass(frozen=True)
class PixelSource:
    """Images to train on and held-out ones.

    Attributes:
        train: To learn from.
        val: To judge by.
        code: Classes, and how masks tell them.
        notes: What was left out, and why; for the user.
    """

    train: PixelImages
    val: PixelImages
    code: MaskCode
    notes: list[str] = field(default_factory=list)


def open_pixels(data: str | Path, val_share: float | None = 0.2, seed: int = 0, strict: bool = False) -> PixelSource:
    """Find the images and masks of a folder; they are read as they are needed.

    Args:
        data: The folder.
        val_share: Share to hold out where the data has no validation images; None to judge by all of them.
        seed: Of that choice.
        strict: Refuse images without a mask, which are left out otherwise.

    Raises:
        FileNotFoundError: If there is no such folder, or it does not say its classes.
        ValueError: If it is of no known kind, or has no images with masks.
    """
    root = Path(data).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}; give one with images and masks")
    notes: list[str] = []
    if (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir():
        parts = [
            _pairs(
                root / "leftImg8bit" / split, root / "gtFine" / split, strict, notes, "_leftImg8bit", "_gtFine_labelIds"
            )
            for split in ("train", "val")
        ]
        return PixelSource(parts[0], parts[1], _cityscapes(), notes)
    named = (root / "classes.txt").exists() or (root / "classes.csv").exists()
    if not named and (root / "annotations" / "training").is_dir() and (root / "images" / "training").is_dir():
        parts = [
            _pairs(root / "images" / split, root / "annotations" / split, strict, notes)
            for split in ("training", "validation")
        ]
        return PixelSource(parts[0], parts[1], _ade20k(root), notes)
    code = _listed(root)
    folders = _split_folders(root)
    if folders is not None:
        train, val = (_pairs(images, masks, strict, notes) for images, masks in folders)
        return PixelSource(train, val, code, notes)
    masks = _mask_folder(root)
    if masks is None or not (root / "images").is_dir():
        raise ValueError(
            f"{root} is of no known kind; it needs train and val, each with images and masks, or images and masks alone"
        )
    every = _pairs(root / "images", masks, strict, notes)
    if val_share is None:
        return PixelSource(every, every, code, notes)
    split = stratified_split([0] * len(every), val_share, seed)
    return PixelSource(_part(every, split.train), _part(every, split.val), code, notes)


def _split_folders(root: Path) -> list[tuple[Path, Path]] | None:
    """Folders of images and masks, to train on and to judge by; None if the data is not split."""
    found = []
    for names in (TRAIN_NAMES, VAL_NAMES):
        for name in names:
            outside, inside = _mask_folder(root / name), _mask_folder(root)
            if outside is not None and (root / name / "images").is_dir():
                found.append((root / name / "images", outside))
                break
            if inside is not None and (inside / name).is_dir() and (root / "images" / name).is_dir():
                found.append((root / "images" / name, inside / name))
                break
    return found if len(found) == 2 else None


def _mask_folder(root: Path) -> Path | None:
    return next((root / name for name in MASK_FOLDERS if (root / name).is_dir()), None)


def _pairs(
    images: Path, masks: Path, strict: bool, notes: list[str], image_end: str = "", mask_end: str = ""
) -> PixelImages:
    """Images that have a mask of the same name."""
    if not images.is_dir() or not masks.is_dir():
        raise FileNotFoundError(f"{images if not images.is_dir() else masks} is missing; images and masks go together")
    files = sorted(path for path in images.rglob(f"*{image_end}.*") if path.suffix.lower() in SUFFIXES)
    there = {path.relative_to(masks).with_suffix(""): path for path in sorted(masks.rglob("*")) if _is_mask(path)}
    pairs, lonely = [], []
    for file in files:
        place, stem = file.relative_to(images).parent, file.stem.removesuffix(image_end) + mask_end
        mask = there.get(place / stem) or there.get(place / f"{stem}_mask")
        if mask is None:
            lonely.append(file)
        else:
            pairs.append((str(file), str(mask)))
    if not pairs:
        raise ValueError(f"{images} has no image with a mask of the same name in {masks}; masks are PNG files")
    if lonely:
        told = f"{len(lonely)} of {len(files)} images in {images} have no mask in {masks}; the first: {lonely[0].name}"
        if strict:
            raise ValueError(f"{told}; add them, or leave --strict out")
        notes.append(f"{told}; they were left out")
    return PixelImages([image for image, _ in pairs], [mask for _, mask in pairs])


def _is_mask(path: Path) -> bool:
    return path.suffix.lower() in MASK_SUFFIXES


def _part(images: PixelImages, numbers: Sequence[int]) -> PixelImages:
    return PixelImages([images.name(n) for n in numbers], [images.masks.name(n) for n in numbers])


def _listed(root: Path) -> MaskCode:
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
        return MaskCode(_checked(classes, table), colours.astype(np.uint8), coloured=True)
    if names.exists():
        classes = [line.strip() for line in read_text(names).splitlines() if line.strip()]
        return MaskCode(_checked(classes, names), some_colours(len(classes)))
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


def _ade20k(root: Path) -> MaskCode:
    """150 classes numbered from 1; 0 counts nowhere (Zhou et al., CVPR 2017)."""
    file, classes = root / "objectInfo150.txt", [f"class {number}" for number in range(1, 151)]
    if file.exists():
        lines = [line.split("\t") for line in read_text(file).splitlines()[1:] if line.strip()]
        classes = [line[-1].split(",")[0].strip() for line in lines]
    table = {0: IGNORED} | {number + 1: number for number in range(len(classes))}
    return MaskCode(_checked(classes, file), some_colours(len(classes)), table=table)


def _cityscapes() -> MaskCode:
    table = dict.fromkeys(range(CITYSCAPES_LABELS), IGNORED)
    table |= {number: place for place, (number, _) in enumerate(CITYSCAPES.values())}
    colours = np.array([colour for _, colour in CITYSCAPES.values()], np.uint8)
    return MaskCode(list(CITYSCAPES), colours, table=table)
