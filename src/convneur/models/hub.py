"""Models on disk, in the layout of the Hugging Face hub that timm loads: config.json, model.safetensors, README.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import timm
from safetensors import SafetensorError
from timm.models import is_model_pretrained, save_for_hf
from torch import nn

from convneur.files import replace_folder
from convneur.models.names import no_such_model


def save_model(
    model: nn.Module,
    folder: Path,
    model_args: Mapping[str, Any],
    label_names: Sequence[str] | None = None,
    card: str | None = None,
) -> None:
    """Write a model so that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` brings it back.

    Written beside the folder first and then moved, so that a crash never leaves half a model.

    Args:
        model: To save; it must come from `create_model`.
        folder: Where; a model that is there is replaced, other files stay.
        model_args: The arguments it was created with, as JSON can hold them.
        label_names: Names of the classes.
        card: Text of the model card, README.md.

    Raises:
        OSError: If it cannot be written; what was in ``folder`` is still there.
    """
    config: dict[str, Any] = {"label_names": list(label_names)} if label_names is not None else {}
    with replace_folder(folder, last="config.json") as fresh:
        try:
            save_for_hf(model, str(fresh), config, model_args=dict(model_args), safe_serialization=True)
        except SafetensorError as error:  # how safetensors reports a full or failing disk
            raise OSError(f"could not write the weights to {folder}: {error}") from error
        if card is not None:
            (fresh / "README.md").write_text(card, encoding="utf-8")


def _refuse_others(folder: Path) -> None:
    """Detectors and segmentation models are no models of timm."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # told of where it is loaded
        return
    if isinstance(config, dict) and {"detector", "segmenter"} & set(config):
        raise ValueError(
            f"{folder} holds no classifier; detectors and segmentation models go with convneur eval, predict and train"
        )


class Loaded(NamedTuple):
    """A model in eval mode, timm's description of it (``pretrained_cfg``), and the names of its classes, if kept."""

    model: nn.Module
    config: dict[str, Any]
    classes: list[str] | None


def load_model(source: str | Path, **kwargs: Any) -> Loaded:
    """Load a trained model.

    Args:
        source: A folder that `save_model` wrote, a run of ``convneur train`` (its ``model`` folder is taken), a file
            name of timm's hub (``hf-hub:user/name``), or a name of timm, which loads pretrained weights.
        **kwargs: Other arguments of ``timm.create_model``.

    Raises:
        FileNotFoundError: If there is no such folder or name.
        ValueError: If what is there cannot be loaded, or has no pretrained weights.
    """
    folder = Path(source).expanduser()
    if (folder / "model" / "config.json").is_file():
        folder = folder / "model"
    name = str(source)
    if (folder / "config.json").is_file():
        name = f"local-dir:{folder}"
    elif folder.exists():
        raise FileNotFoundError(f"{source} holds no model; give a folder with config.json, or a run that has finished")
    elif not (timm.is_model(name) or name.startswith(("hf-hub:", "hf_hub:", "local-dir:"))):
        raise no_such_model(name, timm.list_models())
    elif timm.is_model(name) and not is_model_pretrained(name):
        raise ValueError(f"there are no pretrained weights of {name}; train one (convneur train) and give its folder")
    _refuse_others(folder)
    try:
        model = timm.create_model(name, pretrained=True, **kwargs)
    except Exception as error:  # no network, another layout, damaged or hostile weights: whatever the readers raise
        raise ValueError(f"{source} cannot be loaded ({' '.join(str(error).split())[:300]})") from error
    config: dict[str, Any] = dict(cast(Any, model).pretrained_cfg)
    labels = config.get("label_names")
    return Loaded(model.eval(), config, list(labels) if labels else None)
