"""Detectors on disk: config.json, model.safetensors, README.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from convneur.files import replace_folder
from convneur.tasks.detection.models import create_detector

# Of a backbone's arguments, those that would have timm fetch weights: they are in the file beside.
FETCHING = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


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


def detector_folder(source: str | Path) -> Path | None:
    """The folder of a detector that ``source``, a run or a folder of a model, holds; None if it holds none."""
    folder = Path(source).expanduser()
    for place in (folder / "model", folder):
        if (place / "config.json").is_file():
            return place if "detector" in _config(place) else None
    return None


def save_detector(
    model: nn.Module,
    folder: Path,
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
    config = {"detector": dict(arguments), "label_names": list(classes), "category_ids": list(category_ids)}
    with replace_folder(folder) as fresh:
        (fresh / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (fresh / "README.md").write_text(card, encoding="utf-8")
        try:
            weights = {name: value.contiguous() for name, value in model.state_dict().items()}
            save_file(weights, fresh / "model.safetensors", metadata={"format": "pt"})
        except SafetensorError as error:  # how safetensors reports a full or failing disk
            raise OSError(f"could not write the weights to {folder}: {error}") from error


def load_detector(source: str | Path) -> SavedDetector:
    """Bring back a detector.

    Args:
        source: A run of ``convneur train detection`` or ``instance``, or its ``model`` folder.

    Raises:
        FileNotFoundError: If there is no detector.
        ValueError: If what is there cannot be loaded.
    """
    folder = detector_folder(source)
    if folder is None:
        raise FileNotFoundError(f"{source} holds no detector; give the folder of a run that has finished")
    config = _config(folder)
    try:
        arguments = dict(config["detector"])
        given = dict(arguments.get("backbone_args") or {})
        kept = {name: value for name, value in given.items() if name not in FETCHING}
        model = create_detector(**arguments | {"backbone_args": kept})
        model.load_state_dict(load_file(folder / "model.safetensors"))
        classes, numbers = [str(name) for name in config["label_names"]], [int(n) for n in config["category_ids"]]
    except Exception as error:  # another version, damaged or hostile files: whatever the readers raise
        raise ValueError(f"{source} cannot be loaded ({' '.join(str(error).split())[:300]})") from error
    return SavedDetector(model.eval(), arguments, classes, numbers)


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{folder / 'config.json'} is damaged ({error}); train or copy the model again") from error
    return config if isinstance(config, dict) else {}
