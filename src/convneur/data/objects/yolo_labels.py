"""Which label file of a YOLO folder belongs to which image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from convneur.data.objects.gathering import listed
from convneur.data.paths import walk

SUFFIX = ".txt"
NO_LABELS = ("classes.txt", "labels.txt", "notes.txt", "readme.txt", "train.txt", "val.txt", "test.txt")  # of tools


class LabelFiles:
    """Label files of a split: ``a/photo.txt`` among the labels for ``a/photo.png`` among the images.

    Args:
        root: Folder with all splits.
        images: Folder of the images of the split.
        labels: Folder of its labels.
    """

    def __init__(self, root: Path, images: Path, labels: Path) -> None:
        self.root, self.images, self.labels = root, images, labels
        self.used: dict[Path, Path] = {}  # images by their files

    def of(self, image: Path) -> Path | None:
        """The file of an image; None if it has none.

        Raises:
            ValueError: If it is that of another image, too.
        """
        file = self._own(image)
        if not file.is_file():
            return None
        if file in self.used:
            raise ValueError(
                f"{file} is the label file of {self.used[file]} and of {image}; rename one of the images, and give "
                "each a file of its own"
            )
        self.used[file] = image
        return file

    def _own(self, image: Path) -> Path:
        return self.labels / image.relative_to(self.images).with_suffix(SUFFIX)

    def check(self, images: Sequence[Path]) -> None:
        """A ValueError if labels lie where they are not looked for, or no image has any."""
        with_files = set(self.used.values())
        bare = [image for image in images if image not in with_files]
        strays = [place for image in bare for place in self._elsewhere(image)]
        if not strays and self.used:
            return
        others = strays or self._left()
        there = f"found {len(others)} others, such as {others[0]}" if others else "found none there"
        raise ValueError(
            f"{len(bare)} of the {len(images)} images in {self.images} have no label file: looked for "
            f"{self._own(bare[0])} and its like, and {there}; put them there, each by the name of its image"
        )

    def _elsewhere(self, image: Path) -> list[Path]:
        """Label files of an image flat in ``labels``, beside it, or with another ending."""
        folders = [self._own(image).parent, self.root / "labels", image.parent]
        named = [f"{name}{ending}" for name in (image.stem, image.name) for ending in (SUFFIX, SUFFIX.upper())]
        return [place for folder in folders for name in named if (place := folder / name).is_file()]

    def notes(self) -> list[str]:
        """Files that belong to no image."""
        left, place = self._left(), self.labels.relative_to(self.root)
        words = f"label files belong to no image in {self.images.relative_to(self.root)}"
        return [f"{place}: {len(left)} {words} ({listed([file.name for file in left])})"] if left else []

    def _left(self) -> list[Path]:
        files = walk(self.labels) if self.labels.is_dir() else ()
        return [
            file
            for file in files
            if file.suffix.lower() == SUFFIX and file not in self.used and file.name.lower() not in NO_LABELS
        ]
