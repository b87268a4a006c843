"""Segmentation models on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convneur.data.semantic import MaskEncoding
from convneur.files import StrPath
from convneur.models.hub import CONFIG
from convneur.models.metadata import (
    MAX_SIDE,
    as_object,
    check_labels,
    check_types,
    number,
    several,
    whole,
    within,
)
from convneur.tasks.saved import bring_back, find_model, named, read_config, write_model
from convneur.tasks.segmentation.inference import check_inference
from convneur.tasks.segmentation.models import Segmenter, check_arguments, create_segmenter
from convneur_options.segmentation import Inference

KEY = "segmenter"
MAX_WINDOW = 16_384  # pixels a side of a tile


class SavedSegmenter(NamedTuple):
    """A model in eval mode, the arguments of `create_segmenter`, its classes and colours, and how to ask it."""

    model: Segmenter
    arguments: dict[str, Any]
    code: MaskEncoding
    inference: Inference


def segmenter_folder(source: StrPath) -> Path | None:
    """The folder of a segmentation model in ``source``, a run or a folder of a model; None if it holds none."""
    return find_model(source, KEY)


def save_segmenter(
    model: Segmenter, folder: StrPath, arguments: Mapping[str, Any], code: MaskEncoding, inference: Inference, card: str
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
        KEY: named(model, arguments),
        "label_names": list(code.classes),
        "colours": np.asarray(code.colours).tolist(),
        "inference": vars(inference) | {"scales": list(inference.scales)},
    }
    write_model(model, folder, config, card)


def load_segmenter(source: StrPath) -> SavedSegmenter:
    """Bring back a model.

    Args:
        source: A run of ``convneur train segmentation``, or its ``model`` folder.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If what is there cannot be loaded.
    """
    folder = segmenter_folder(source)
    if folder is None:
        named = os.fspath(source)
        raise FileNotFoundError(f"{named} holds no segmentation model; give the folder of a run that has finished")
    model, arguments = bring_back(folder, create_segmenter, KEY, check_arguments)
    config = read_config(folder)
    with within(str(folder / CONFIG)):
        classes = check_labels(config.get("label_names"), arguments["num_classes"], KEY)
        code = encoding_of(classes, config.get("colours"))
        inference = inference_of(config.get("inference"), "inference")
    return SavedSegmenter(model, {"decoder": "semantic_fpn"} | arguments, code, inference)


def encoding_of(classes: list[str], colours: Any) -> MaskEncoding:
    """Classes and their colours, as JSON has them; a ValueError for what is no colour of each."""
    several(colours, "colours", (len(classes),), _colour)
    return MaskEncoding(classes, np.array(colours, np.uint8))


def inference_of(given: Any, place: str) -> Inference:
    """How to ask a model, as JSON has it; a ValueError for what is unknown or out of range."""
    how = as_object(given, place)
    scales = how.get("scales", [1.0])
    check_types({name: value for name, value in how.items() if name != "scales"}, Inference, place)
    for name, most in (("size", MAX_SIDE), ("window", MAX_WINDOW), ("margin", MAX_WINDOW)):
        whole(how.get(name, 0), f"{place}.{name}", 0, most)
    several(scales, f"{place}.scales", range(1, 17), lambda each, at: number(each, at, 0.05, 8))
    return check_inference(Inference(**how | {"scales": tuple(scales)}))


def _colour(value: Any, place: str) -> None:
    several(value, place, (3,), lambda each, at: whole(each, at, 0, 255))
