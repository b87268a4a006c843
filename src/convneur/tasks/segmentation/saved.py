"""Segmentation models on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convneur.data.semantic import MaskCode
from convneur.tasks.saved import bring_back, find_model, read_config, write_model
from convneur.tasks.segmentation.inference import Inference
from convneur.tasks.segmentation.models import Segmenter, create_segmenter

KEY = "segmenter"


class SavedSegmenter(NamedTuple):
    """A model in eval mode, the arguments of `create_segmenter`, its classes and colours, and how to ask it."""

    model: Segmenter
    arguments: dict[str, Any]
    code: MaskCode
    inference: Inference


def segmenter_folder(source: str | Path) -> Path | None:
    """The folder of a segmentation model in ``source``, a run or a folder of a model; None if it holds none."""
    return find_model(source, KEY)


def save_segmenter(
    model: Segmenter, folder: Path, arguments: Mapping[str, Any], code: MaskCode, inference: Inference, card: str
) -> None:
    """Write a model so that `load_segmenter` brings it back; whole, or what was there stays.

    Args:
        model: To save.
        folder: Replaced if it exists.
        arguments: Of `create_segmenter`, as JSON can hold them.
        code: Classes and colours.
        inference: How to ask it.
        card: Text of the model card, README.md.

    Raises:
        OSError: If it cannot be written.
    """
    config = {
        KEY: dict(arguments),
        "label_names": list(code.classes),
        "colours": np.asarray(code.colours).tolist(),
        "inference": vars(inference) | {"scales": list(inference.scales)},
    }
    write_model(model, folder, config, card)


def load_segmenter(source: str | Path) -> SavedSegmenter:
    """Bring back a model.

    Args:
        source: A run of ``convneur train segmentation``, or its ``model`` folder.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If what is there cannot be loaded.
    """
    folder = segmenter_folder(source)
    if folder is None:
        raise FileNotFoundError(f"{source} holds no segmentation model; give the folder of a run that has finished")
    config = read_config(folder)
    model, arguments = bring_back(folder, create_segmenter, config[KEY])
    try:
        code = MaskCode([str(name) for name in config["label_names"]], np.array(config["colours"], np.uint8))
        how = dict(config["inference"])
        inference = Inference(**how | {"scales": tuple(how["scales"])})
        if not len(code.classes) == len(code.colours) == arguments["num_classes"]:
            raise ValueError(f"{len(code.classes)} classes for a model of {arguments['num_classes']}")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{folder / 'config.json'} is damaged ({error}); train or copy the model again") from error
    return SavedSegmenter(model, arguments, code, inference)
