"""Which label file of a YOLO folder belongs to which image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from convneur.data.objects.gathering import listed
from convneur.data.paths import walk

SUFFIX = ".txt"
NO_LABELS = ("classes.txt", "labels.txt", "notes.txt", "readme.txt", "train.txt", "val.txt", "test.txt")  # of tools


class LabelFiles:
    """Label files of a split: ``photo.txt`` or ``photo.png.txt`` for ``photo.png``, in the same folder below
    ``labels/SPLIT`` as the image below ``images/SPLIT``; the ending may be in capitals.

    Args:
        root: Folder with ``images`` and ``labels``.
        split: Name of the folders in them.
    """

    def __init__(self, root: Path, split: str) -> None:
        self.root, self.images, self.labels = root, root / "images" / split, root / "labels" / split
        self.files: dict[Path, list[Path]] = defaultdict(list)
        for file in walk(self.labels) if self.labels.is_dir() else ():
            if file.suffix.lower() == SUFFIX:
                self.files[file.with_suffix("").relative_to(self.labels)].append(file)
        self.used: dict[Path, Path] = {}

    def of(self, image: Path) -> Path | None:
        """The file of an image; None if it has none.

        Raises:
            ValueError: If it has several, or shares one with another image.
        """
        own = image.relative_to(self.images)
        found = [*self.files.get(own.with_suffix(""), ()), *self.files.get(own, ())]
        if len(found) > 1:
            raise ValueError(f"{image} has the label files {found[0]} and {found[1]}; leave the right one there")
        if not found:
            return None
        if found[0] in self.used:
            raise ValueError(
                f"{found[0]} is the label file of {self.used[found[0]]} and of {image}; rename one of the images, and "
                "give each a file of its own"
            )
        self.used[found[0]] = image
        return found[0]

    def check(self, images: Sequence[Path]) -> None:
        """A ValueError if labels lie where they are not looked for, or no image has any."""
        with_files = set(self.used.values())
        bare = [image for image in images if image not in with_files]
        strays = [place for image in bare for place in self._elsewhere(image)]
        if not strays and self.used:
            return
        first = images[0] if not bare else bare[0]
        looked_for = self.labels / first.relative_to(self.images).with_suffix(SUFFIX)
        others = strays or self._left()
        there = f"found {len(others)} others, such as {others[0]}" if others else "found no label files"
        raise ValueError(
            f"{len(bare)} of the {len(images)} images in {self.images} have no label file: looked for {looked_for} and "
            f"its like, and {there}; put the files there, by the names of their images"
        )

    def _elsewhere(self, image: Path) -> list[Path]:
        """Label files of an image flat in ``labels``, or beside it."""
        folders = [self.root / "labels", image.parent]
        named = [f"{name}{ending}" for name in (image.stem, image.name) for ending in (SUFFIX, SUFFIX.upper())]
        places = [folder / name for folder in folders for name in named]
        return [place for place in places if place.name.lower() not in NO_LABELS and place.is_file()]

    def notes(self) -> list[str]:
        """Files that belong to no image."""
        left, place = self._left(), self.labels.relative_to(self.root)
        words = f"label files belong to no image in {self.images.relative_to(self.root)}"
        return [f"{place}: {len(left)} {words} ({listed([file.name for file in left])})"] if left else []

    def _left(self) -> list[Path]:
        every = (file for files in self.files.values() for file in files if file not in self.used)
        return [file for file in every if file.name.lower() not in NO_LABELS]
