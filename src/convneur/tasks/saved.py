"""Models that are more than a backbone, on disk: config.json, model.safetensors, README.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from convneur.files import replace_folder

M = TypeVar("M", bound=nn.Module)

# Of a backbone's arguments, those that would have timm fetch weights: they are in the file beside.
FETCHING = (
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained_strict",
    "checkpoint_path",
    "cache_dir",
    "encoder_weights",
    "weights",
    "weights_backbone",
)


def find_model(source: str | Path, key: str) -> Path | None:
    """The folder of a model of some kind that ``source``, a run or a folder of a model, holds; None if it holds none.

    Args:
        source: Where to look.
        key: What config.json has for models of this kind: the arguments that create one.
    """
    folder = Path(source).expanduser()
    for place in (folder / "model", folder):
        if (place / "config.json").is_file():
            return place if key in read_config(place) else None
    return None


def read_config(folder: Path) -> dict[str, Any]:
    """What config.json says; a ValueError if it is damaged."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{folder / 'config.json'} is damaged ({error}); train or copy the model again") from error
    return config if isinstance(config, dict) else {}


def write_model(model: nn.Module, folder: Path, config: Mapping[str, Any], card: str) -> None:
    """Write a model, whole, or what was there stays.

    Args:
        model: To save.
        folder: Where; a model that is there is replaced, other files stay.
        config: For config.json.
        card: Text of the model card, README.md.

    Raises:
        OSError: If it cannot be written.
    """
    with replace_folder(folder, last="config.json") as fresh:
        (fresh / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")
        (fresh / "README.md").write_text(card, encoding="utf-8")
        try:
            weights = {name: value.contiguous() for name, value in model.state_dict().items()}
            save_file(weights, fresh / "model.safetensors", metadata={"format": "pt"})
        except SafetensorError as error:  # how safetensors reports a full or failing disk
            raise OSError(f"could not write the weights to {folder}: {error}") from error


def bring_back(folder: Path, create: Callable[..., M], arguments: Mapping[str, Any]) -> tuple[M, dict[str, Any]]:
    """Create a model, without fetching anything, and load its weights.

    Args:
        folder: Of the model.
        create: Makes it.
        arguments: Of ``create``, as config.json has them.

    Returns:
        The model, in eval mode, and its arguments without what would fetch something.

    Raises:
        ValueError: If what is there cannot be loaded.
    """
    try:
        backbone = arguments["backbone"]
        if not timm.is_model(backbone):  # hf-hub: and the like would fetch something
            raise ValueError(f"{backbone} is no model of timm")
        given = dict(arguments.get("backbone_args") or {})
        for name in FETCHING:
            if name in arguments:  # timm would be handed it, too
                raise ValueError(f"{name} is none of its settings")
            given.pop(name, None)
        kept = {**arguments, "backbone_args": given}
        model = create(**kept)
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except ImportError:
        raise
    except Exception as error:  # another version, damaged or hostile files: whatever the readers raise
        raise ValueError(f"{folder} cannot be loaded ({' '.join(str(error).split())[:300]})") from error
    model.eval()
    return model, kept
