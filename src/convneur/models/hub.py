"""Models on disk, in the layout of the Hugging Face hub that timm loads: config.json, model.safetensors, README.md."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import timm
import torch
from safetensors import SafetensorError
from timm.models import is_model_pretrained, save_for_hf
from torch import Tensor, nn

from convneur.files import StrPath, replace_folder, why_unreadable
from convneur.json_files import read_json
from convneur.models.backbone import ConvNeur
from convneur.models.metadata import CHECKS, PRETRAINED_FIELDS, ModelMetadata, as_object, check_arguments, within
from convneur.models.registry_utils import no_such_model
from convneur.models.weights import load_whole, read_header
from convneur_options.renamed import with_new_names

CONFIG, WEIGHTS = "config.json", "model.safetensors"
ASKED = 256  # pixels a side, at most, of the image that a model is asked about when it is loaded
AGAIN = "train or copy the model again"  # what to do about a damaged one


def save_model(
    model: nn.Module,
    folder: StrPath,
    model_args: Mapping[str, Any],
    label_names: Sequence[str] | None = None,
    card: str | None = None,
) -> None:
    """Write a model so that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` brings it back.

    So does ``AutoModelForImageClassification.from_pretrained("FOLDER")`` of transformers.

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
    folder = Path(folder).expanduser()
    model_args = with_preset(model, with_new_names(model_args))
    config: dict[str, Any] = {"label_names": list(label_names)} if label_names is not None else {}
    with replace_folder(folder, last="config.json") as fresh:
        try:
            save_for_hf(model, str(fresh), config, model_args=model_args, safe_serialization=True)
        except SafetensorError as error:  # how safetensors reports a full or failing disk
            raise OSError(f"could not write the weights to {folder}: {error}") from error
        written = json.loads((fresh / CONFIG).read_text(encoding="utf-8"))
        written["pretrained_cfg"].pop("tag", None)  # of the weights, or of none, that training began with
        written.get("model_args", {}).pop(
            "num_classes", None
        )  # timm takes the other one, and transformers fails with both
        (fresh / CONFIG).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
        if card is not None:
            (fresh / "README.md").write_text(card, encoding="utf-8")


def with_preset(model: nn.Module, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the `ConvNeur` in a model that name its preset: the default may be another one some day."""
    for each in model.modules():
        if isinstance(each, ConvNeur):
            return {"preset": "slots" if each.global_config.memory.state == "slots" else "linear", **arguments}
    return dict(arguments)


class Loaded(NamedTuple):
    """A model in eval mode, timm's description of it (``pretrained_cfg``), and the names of its classes, if kept."""

    model: nn.Module
    config: dict[str, Any]
    classes: list[str] | None


def load_model(source: StrPath, num_classes: int | None = None, **kwargs: Any) -> Loaded:
    """Load a trained model: all of it, every tensor from the file, or not at all.

    Args:
        source: A folder that `save_model` wrote, a run of ``convneur train`` (its ``model`` folder is taken), a
            repository of the hub (``hf-hub:user/name``), or a name of timm, which loads pretrained weights.
        num_classes: Give the model a new classifier, of this size, that is not trained; None to keep its own.
        **kwargs: Other arguments of ``timm.create_model``, such as ``drop_path_rate``, to which the weights must fit.

    Raises:
        FileNotFoundError: If there is no such folder or name.
        OSError: If it cannot be fetched.
        ValueError: If what is there cannot be loaded, or has no pretrained weights.
    """
    source = os.fspath(source)
    folder = model_folder(source)
    loaded = _pretrained(source, kwargs) if folder is None else _of_folder(folder, source, kwargs)
    model = cast(Any, loaded.model)
    if num_classes is None or num_classes == model.num_classes:
        return loaded
    model.reset_classifier(num_classes)
    return Loaded(model.eval(), loaded.config | {"num_classes": num_classes}, None)


def model_folder(source: StrPath) -> Path | None:
    """The folder with config.json of what `load_model` takes; None for a name of timm.

    Raises:
        FileNotFoundError: If there is no such folder or name.
        OSError: If it cannot be fetched from the hub.
    """
    name, folder = os.fspath(source), Path(source).expanduser()
    prefix, _, rest = name.partition(":")
    if not folder.exists():
        if prefix in ("hf-hub", "hf_hub"):
            return _fetched(name, rest)
        if prefix == "local-dir":
            folder = Path(rest).expanduser()
    for place in (folder / "model", folder):
        if (place / CONFIG).is_file():
            return place
    if folder.exists():
        raise FileNotFoundError(
            f"{name} holds no model; give a folder with config.json, or a run that has finished; files of convneur "
            "export go with convneur predict and eval"
        )
    if not timm.is_model(name):
        raise no_such_model(name, timm.list_models())
    return None


def _fetched(source: str, repository: str) -> Path:
    from huggingface_hub import hf_hub_download

    name, _, revision = repository.partition("@")
    try:
        for file in (WEIGHTS, CONFIG):
            found = hf_hub_download(name, file, revision=revision or None)
    except Exception as error:  # no network, no such repository or file: whatever the hub raises
        raise OSError(
            f"{source} cannot be loaded ({why_unreadable(error)}); check the name, the network, and that it has "
            f"{CONFIG} and {WEIGHTS}"
        ) from error
    return Path(found).parent


def _pretrained(name: str, kwargs: Mapping[str, Any]) -> Loaded:
    """A model of timm's, whose weights timm loads strictly where the number of classes is their own."""
    if not is_model_pretrained(name):
        raise ValueError(f"there are no pretrained weights of {name}; train one (convneur train) and give its folder")
    try:
        model = timm.create_model(name, pretrained=True, **kwargs)
    except Exception as error:  # no network, damaged or hostile weights: whatever the readers raise
        raise ValueError(
            f"{name} cannot be loaded ({why_unreadable(error)}); check the name and the network"
        ) from error
    config: dict[str, Any] = dict(cast(Any, model).pretrained_cfg)
    labels = config.get("label_names")
    return Loaded(model.eval(), config, list(labels) if labels else None)


def _of_folder(folder: Path, source: str, kwargs: Mapping[str, Any]) -> Loaded:
    config = read_json(folder / CONFIG, AGAIN)
    if {"detector", "segmenter"} & set(config):
        raise ValueError(
            f"{folder} holds no classifier; detectors and segmentation models go with convneur eval, predict and train"
        )
    try:
        header = read_header(folder / WEIGHTS)
        with within(CONFIG):
            metadata = _metadata(config)
            given = config.get("model_args", {})
            arguments = check_arguments(config.get("architecture"), given, "model_args", header)
        preset = {"preset": arguments["preset"]} if "preset" in arguments else {}  # timm reads the others by itself
        model = load_whole(partial(timm.create_model, f"local-dir:{folder}", **(preset | dict(kwargs))), header)
        described: dict[str, Any] = dict(cast(Any, model).pretrained_cfg)
        if cast(Any, model).num_classes != described["num_classes"]:
            raise ValueError(
                f"{CONFIG}: num_classes is {described['num_classes']} and the weights are of "
                f"{cast(Any, model).num_classes} classes"
            )
        _require_answer(model, described)
    except Exception as error:  # another version, damaged or hostile files: whatever the readers raise
        raise ValueError(f"{source} cannot be loaded ({why_unreadable(error)}); {AGAIN}") from error
    return Loaded(model, described, metadata.labels)


def _require_answer(model: nn.Module, described: Mapping[str, Any]) -> None:
    """Ask a model once: whether settings and weights make an answer does not show before."""
    channels, *size = described["input_size"]
    if not described.get("fixed_input_size"):
        size = [min(side, ASKED) for side in (described.get("min_input_size") or described["input_size"])[1:]]
    with torch.inference_mode():
        answer = model.eval()(torch.zeros(1, channels, *size))
    classes = described["num_classes"]
    if not isinstance(answer, Tensor) or (classes and answer.shape != (1, classes)):
        raise ValueError(f"{CONFIG}: its settings make no answer of {classes} classes")
    if not answer.isfinite().all():
        raise ValueError(f"{WEIGHTS} gives answers that are no finite numbers")


def _metadata(config: Mapping[str, Any]) -> ModelMetadata:
    """What config.json says, in either of the forms that timm reads."""
    nested = "pretrained_cfg" in config
    described = as_object(config["pretrained_cfg"] if nested else dict(config), "pretrained_cfg")
    place = "pretrained_cfg." if nested else ""
    for name in described:
        if name not in PRETRAINED_FIELDS and (nested or name not in ("architecture", "num_features", "labels")):
            raise ValueError(f"{place}{name} is none of its settings")
    labels = config.get("label_names", described.get("label_names", config.get("labels")))
    if "num_classes" in config:
        CHECKS["num_classes"](config["num_classes"], "num_classes")
        described = {**described, "num_classes": config["num_classes"]}
    return ModelMetadata.checked(described, None if labels == [] else labels, place)
