"""Folders for detection or segmentation that are given where images with a class each are wanted."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from convneur.data.objects.sources import is_for_detection
from convneur.data.semantic.sources import is_for_segmentation

NO_CLASSES = {"images", "labels", "masks", "annotations", "leftimg8bit", "gtfine", "jpegimages", "imagesets"}


def refuse_other_tasks(root: Path, cause: ValueError | None = None, names: Iterable[str] = ()) -> None:
    """A ValueError if a folder, or what lies beside its annotations, is for detection or for segmentation.

    Args:
        root: The folder.
        cause: What was wrong with it.
        names: Of its folders; if some are names of classes, the folder is not looked at.
    """
    if not {name.lower() for name in names} <= NO_CLASSES:
        return
    for task, fits in (("segmentation", is_for_segmentation), ("detection", is_for_detection)):
        if fits(root):
            raise ValueError(
                f"{root} holds images for {task}, and no folders of classes; convneur train {task} learns from it"
            ) from cause
