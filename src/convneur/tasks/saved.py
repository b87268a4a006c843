"""Models that are more than a backbone, on disk: config.json, model.safetensors, README.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from convneur.files import StrPath, replace_folder, why_unreadable
from convneur.json_files import read_json
from convneur.models.hub import AGAIN, CONFIG, WEIGHTS, with_preset
from convneur.models.metadata import as_object, check_arguments, check_sizes, within
from convneur.models.weights import load_whole, read_header

M = TypeVar("M", bound=nn.Module)


def find_model(source: StrPath, key: str) -> Path | None:
    """The folder of a model of some kind that ``source``, a run or a folder of a model, holds; None if it holds none.

    Args:
        source: Where to look.
        key: What config.json has for models of this kind: the arguments that create one.
    """
    folder = Path(source).expanduser()
    for place in (folder / "model", folder):
        if (place / CONFIG).is_file():
            return place if key in read_config(place) else None
    return None


def read_config(folder: Path) -> dict[str, Any]:
    """What config.json says; a ValueError if it is damaged."""
    return read_json(folder / CONFIG, AGAIN)


def named(model: nn.Module, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a model, with all that those of its backbone leave to defaults which may change."""
    backbone = with_preset(model, arguments.get("backbone_args") or {})
    return {**arguments, "backbone_args": backbone} if backbone else dict(arguments)


def write_model(model: nn.Module, folder: StrPath, config: Mapping[str, Any], card: str) -> None:
    """Write a model, whole, or what was there stays.

    Args:
        model: To save.
        folder: Where; a model that is there is replaced, other files stay.
        config: For config.json.
        card: Text of the model card, README.md.

    Raises:
        OSError: If it cannot be written.
    """
    with replace_folder(Path(folder).expanduser(), last="config.json") as fresh:
        (fresh / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")
        (fresh / "README.md").write_text(card, encoding="utf-8")
        try:
            weights = {name: value.contiguous() for name, value in model.state_dict().items()}
            save_file(weights, fresh / "model.safetensors", metadata={"format": "pt"})
        except SafetensorError as error:  # how safetensors reports a full or failing disk
            raise OSError(f"could not write the weights to {folder}: {error}") from error


def bring_back(
    folder: Path, create: Callable[..., M], key: str, check: Callable[[Mapping[str, Any], str], None]
) -> tuple[M, dict[str, Any]]:
    """Create a model, without fetching anything, and load its weights, every tensor from the file.

    Args:
        folder: Of the model.
        create: Makes it.
        key: Where config.json has the arguments of ``create``.
        check: Refuses arguments that are unknown or out of range; ``key`` is their place.

    Returns:
        The model, in eval mode, and its arguments without what would fetch something.

    Raises:
        ValueError: If what is there cannot be loaded.
    """
    config = read_config(folder)
    try:
        header = read_header(folder / WEIGHTS)
        with within(CONFIG):
            arguments = as_object(config.get(key), key)
            inside = dict(as_object(arguments.get("backbone_args") or {}, f"{key}.backbone_args"))
            inside.pop("pretrained", None)  # its weights are in the file
            inside = check_arguments(arguments.get("backbone"), inside, f"{key}.backbone_args", header)
            check(arguments, key)
            check_sizes(arguments, key, header.most)
        kept = {**arguments, "backbone_args": inside}
        model = load_whole(partial(create, **kept), header)
    except ImportError:
        raise
    except Exception as error:  # another version, damaged or hostile files: whatever the readers raise
        raise ValueError(f"{folder} cannot be loaded ({why_unreadable(error)}); {AGAIN}") from error
    return model, kept
