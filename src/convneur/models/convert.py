"""Warm start: a ConvNeXt of timm becomes the ConvNeur that computes the same function."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import load_state_dict
from torch import Tensor, nn

from convneur.files import StrPath, check_file, why_unreadable
from convneur.models.backbone import ConvNeur
from convneur.models.hub import load_model
from convneur.models.registry import create_model
from convneur.models.variants import VARIANTS
from convneur.models.weights import require_finite_weights


def from_convnext(
    source: StrPath | nn.Module | Mapping[str, Tensor], num_classes: int | None = None, **kwargs: Any
) -> ConvNeur:
    """Turn a ConvNeXt-Atto, -Femto, -Pico or -Nano into the matching ConvNeur with the same outputs.

    The global branch is new and starts without effect: the gate is 1/2 everywhere, and the layer scale of gated blocks
    is doubled, which is exact in floating point.

    Args:
        source: A timm module, its state dict, a checkpoint file (safetensors, or a pickle that is loaded with
            ``weights_only=True``), or a model name that timm loads with pretrained weights.
        num_classes: Replace the classifier by a new one of this size, after the conversion.
        **kwargs: Other arguments of `ConvNeur`, such as ``preset``, ``fusion`` or ``drop_path_rate``.

    Raises:
        ValueError: If the weights are of no such ConvNeXt; every missing and left-over weight is named.
        FileNotFoundError: If ``source`` names neither a file nor a model of timm.
        OSError: If timm cannot load the model it names, for want of a network, say.
    """
    given = _state_dict(source)
    named = "the state dict" if isinstance(source, (nn.Module, Mapping)) else os.fspath(source)
    _check(given, named)
    name = _variant(given)
    head = given.get("head.fc.weight")
    model = create_model(
        name, num_classes=0 if head is None else head.shape[0], in_chans=given["stem.0.weight"].shape[1], **kwargs
    )
    wanted = model.state_dict()
    new = names_of_memory(wanted)
    missing = sorted(set(wanted) - new - set(given))
    left_over = sorted(set(given) - (set(wanted) - new))  # a memory, too, for a new one would take its place
    if missing or left_over:
        raise ValueError(
            f"the weights do not make a {VARIANTS[name].baseline}: missing {missing or 'none'}, "
            f"left over {left_over or 'none'}; give a plain ConvNeXt-Atto, -Femto, -Pico or -Nano of timm"
        )
    require_finite_weights(given, named)
    converted = {}
    for key, value in given.items():
        if not value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            raise ValueError(f"{key} of {named} is of type {kind}; give floating-point weights")
        # timm's small ConvNeXts have 1x1 convolutions where ours has linear maps of the same numbers.
        if value.squeeze().shape != wanted[key].squeeze().shape:
            needed = tuple(wanted[key].shape)
            raise ValueError(f"{key} of {named} is of shape {tuple(value.shape)} where {needed} is needed")
        converted[key] = value.reshape(wanted[key].shape)
    model.load_state_dict(with_new_memory(converted, model))
    if num_classes is not None:
        model.reset_classifier(num_classes)
    return model


def names_of_memory(names: Iterable[str]) -> set[str]:
    """Of the tensors with these names, those of global branches and of what joins them to the local features."""
    return {name for name in names if ".global_branch." in name or ".merge." in name}


def with_new_memory(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights of a local-only model, and new global branches that change nothing about what they compute.

    Args:
        weights: Named as in ``model``, without global branches.
        model: Just created: a `ConvNeur`, or anything with one inside.

    Returns:
        The weights and those of the global branches of ``model``; the layer scale of gated blocks is doubled.
    """
    new, found = names_of_memory(wanted := model.state_dict()), dict(weights)
    if any("gate" in each.global_config.fusion for each in model.modules() if isinstance(each, ConvNeur)):
        for name in new:
            block, _, rest = name.partition("global_branch.")
            if rest == "up.weight":
                found[f"{block}gamma"] = 2 * found[f"{block}gamma"]
    return found | {name: wanted[name] for name in new}


def _state_dict(source: StrPath | nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    if isinstance(source, nn.Module):
        return source.state_dict()
    if isinstance(source, Mapping):
        return dict(source)
    named, file = os.fspath(source), Path(source).expanduser()
    if file.exists() and not (file.is_dir() and timm.is_model(named)):
        return _read(file)
    if not isinstance(source, str) or not (timm.is_model(source) or ":" in source):
        raise FileNotFoundError(
            f"{named} is neither a file nor a model of timm: no file of that name exists; give one that does, or "
            "a name such as 'convnext_atto.d2_in1k'"
        )
    if ":" in source:
        return load_model(source).model.state_dict()
    with torch.device("meta"):
        _variant(timm.create_model(source).state_dict())  # before its weights are fetched
    try:
        return timm.create_model(source, pretrained=True).state_dict()
    except Exception as error:  # no network, no weights of that name: whatever timm and the hub raise
        raise OSError(
            f"{source} could not be loaded ({why_unreadable(error)}); check name and network, or give "
            "its weights as a file (--weights file.safetensors)"
        ) from error


def _check(given: Mapping[str, Tensor], named: str) -> None:
    """Refuse what is no state dict, or one whose tensors take more memory than what they are from."""
    for key, value in given.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"{named} holds {str(key)[:80]!r}, which is no tensor; give the weights alone")
        # A pickle may repeat one number as a tensor of any size.
        if value.is_meta or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{key} of {named} has fewer numbers than its shape {tuple(value.shape)} says")
    for key, axes in (("stem.0.weight", 4), ("head.fc.weight", 2)):
        if key in given and given[key].ndim != axes:
            raise ValueError(f"{key} of {named} is of shape {tuple(given[key].shape)} where {axes} axes are needed")


def _read(file: Path) -> dict[str, Tensor]:
    """The weights in a file; what they are is checked by `_check`."""
    check_file(file, "give a file of weights, such as file.safetensors")
    if file.suffix == ".pt2":  # PyTorch opens them by running what they hold
        raise ValueError(f"{file} is an exported program, and no file of weights; give the weights as safetensors")
    try:
        _require_uncompressed(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch, about pickles that it refuses a moment later
            return dict(load_state_dict(str(file), weights_only=True))
    except Exception as error:  # whatever a broken or hostile file makes the readers raise
        raise ValueError(f"{file} is no checkpoint that can be read safely ({why_unreadable(error)})") from error


def _require_uncompressed(file: Path) -> None:
    """Refuse an archive that becomes larger when it is read; what PyTorch writes is not compressed."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for part in archive.infolist():
                if part.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"its part {part.filename} is compressed, which torch.save does not do")


def _variant(state_dict: Mapping[str, Tensor]) -> str:
    """Name of the ConvNeur with the widths and depths of these weights."""
    found: list[tuple[int, int]] = []
    while (gamma := state_dict.get(f"stages.{len(found)}.blocks.0.gamma")) is not None and gamma.ndim:
        prefix, depth = f"stages.{len(found)}.blocks", 0
        while f"{prefix}.{depth}.gamma" in state_dict:
            depth += 1
        found.append((gamma.numel(), depth))
    for name, variant in VARIANTS.items():
        if found == list(zip(variant.dims, variant.depths, strict=True)) and "stem.0.weight" in state_dict:
            return name
    sizes = (
        f"widths {[w for w, _ in found]} and depths {[d for _, d in found]}"
        if found
        else "no layer scale of a ConvNeXt"
    )
    baselines = ", ".join(variant.baseline for variant in VARIANTS.values())
    raise ValueError(f"the weights have {sizes}; there is a ConvNeur for {baselines}")
