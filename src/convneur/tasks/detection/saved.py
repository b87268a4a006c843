"""Detectors on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from convneur.files import StrPath
from convneur.models.hub import CONFIG
from convneur.models.metadata import check_labels, several, whole, within
from convneur.tasks.detection.models import check_arguments, create_detector
from convneur.tasks.saved import bring_back, find_model, named, read_config, write_model

KEY = "detector"
MAX_CATEGORY = 1 << 62


class SavedDetector(NamedTuple):
    """A detector in eval mode, the arguments of `create_detector`, and its classes with their numbers."""

    model: nn.Module
    arguments: dict[str, Any]
    classes: list[str]
    category_ids: list[int]

    @property
    def kind(self) -> str:
        """Such as ``mask_rcnn``."""
        return str(self.arguments["kind"])


def detector_folder(source: StrPath) -> Path | None:
    """The folder of a detector that ``source``, a run or a folder of a model, holds; None if it holds none."""
    return find_model(source, KEY)


def save_detector(
    model: nn.Module,
    folder: StrPath,
    arguments: Mapping[str, Any],
    classes: Sequence[str],
    category_ids: Sequence[int],
    card: str,
) -> None:
    """Write a detector so that `load_detector` brings it back; whole, or what was there stays.

    Args:
        model: To save.
        folder: Replaced if it exists.
        arguments: Of `create_detector`, as JSON can hold them.
        classes: Names.
        category_ids: Their numbers in the data.
        card: Text of the model card, README.md.

    Raises:
        OSError: If it cannot be written.
    """
    config = {KEY: named(model, arguments), "label_names": list(classes), "category_ids": list(category_ids)}
    write_model(model, folder, config, card)


def load_detector(source: StrPath) -> SavedDetector:
    """Bring back a detector.

    Args:
        source: A run of ``convneur train detection`` or ``instance``, or its ``model`` folder.

    Raises:
        FileNotFoundError: If there is no detector.
        ValueError: If what is there cannot be loaded.
    """
    folder = detector_folder(source)
    if folder is None:
        raise FileNotFoundError(f"{os.fspath(source)} holds no detector; give the folder of a run that has finished")
    model, arguments = bring_back(folder, create_detector, KEY, check_arguments)
    config = read_config(folder)
    with within(str(folder / CONFIG)):
        classes = check_labels(config.get("label_names"), arguments.get("num_classes", 80), KEY)
        numbers: Any = config.get("category_ids")
        several(numbers, "category_ids", (len(classes),), lambda each, at: whole(each, at, -MAX_CATEGORY, MAX_CATEGORY))
        if len(set(numbers)) < len(numbers):
            raise ValueError("category_ids names a number twice")
    return SavedDetector(model, arguments, classes, numbers)
