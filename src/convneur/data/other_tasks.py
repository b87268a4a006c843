"""Data of one task that is given to another: what it is for is told, and not only what it lacks."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from convneur.data.formats.folders import open_class_folders
from convneur.data.split import Wanted
from convneur.files import StrPath

F = TypeVar("F", bound=Callable[..., Any])
WANTED = {"classification": "folders of classes", "detection": "annotations of objects", "segmentation": "masks"}
# What folders of the other tasks are called
NO_CLASSES = frozenset(
    """
    annotation annotations gt gtfine image images imagesets img imgs jpegimages label labels leftimg8bit mask masks
    """.split()
)


def tells_other_tasks(task: str) -> Callable[[F], F]:
    """Let a function that opens data of a task, its first argument, say so where it is that of another."""

    def decorate(open_it: F) -> F:
        @functools.wraps(open_it)
        def opened(data: StrPath, *args: Any, **options: Any) -> Any:
            try:
                return open_it(data, *args, **options)
            except (ValueError, FileNotFoundError) as error:
                refuse_other_tasks(task, data, error)
                raise

        return cast(F, opened)

    return decorate


def refuse_other_tasks(task: str, data: StrPath, cause: Exception | None = None) -> None:
    """A ValueError if data looks like that of another task; ``cause`` is what was wrong with it."""
    found = task_of(os.fspath(data))
    if found is not None and found != task:
        raise ValueError(
            f"{data} holds images for {found}, and no {WANTED[task]}; convneur train {found} learns from it"
        ) from cause


def task_of(data: str) -> str | None:
    """For which task data looks to be: classification, detection (or instance), segmentation; None if for none."""
    # These ask whose data it is, too.
    from convneur.data.objects.sources import is_for_detection
    from convneur.data.objects.yolo import YAML
    from convneur.data.semantic.sources import is_for_segmentation

    root = Path(data).expanduser()
    if data == "digits" or data.startswith(("hf:", "wds:")) or root.suffix.lower() in (".csv", ".parquet"):
        return "classification"
    if root.is_file():
        return "detection" if root.suffix.lower() in YAML else None
    fits = {"segmentation": is_for_segmentation, "detection": is_for_detection, "classification": _has_classes}
    return next((task for task, is_for in fits.items() if root.is_dir() and is_for(root)), None)


def _has_classes(root: Path) -> bool:
    """Whether a folder has parquet files, or folders with images that are all called like classes."""
    if any(root.glob("*.parquet")):
        return True
    try:
        classes = open_class_folders(root, Wanted(None, 0, "val", learns=False)).classes
    except (ValueError, OSError):
        return False
    return NO_CLASSES.isdisjoint(name.lower() for name in classes)
