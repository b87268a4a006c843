"""Registration with timm: importing this module makes ``timm.create_model("convneur_m1")`` work.

timm 1.0 has no entry point for models of other packages, so ``import convneur`` is what registers ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from convneur.models.backbone import ConvNeur
from convneur.models.registry_utils import choose
from convneur.models.variants import VARIANTS
from convneur.models.weights import read_header
from convneur_options.renamed import preset_of, with_new_names


def _cfg() -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.0",
        "classifier": "head.fc",
        "license": "apache-2.0",
        "paper_ids": "arXiv:2603.19567",
        "paper_name": "Efficiency Follows Global-Local Decoupling",
    }


default_cfgs = generate_default_cfgs({f"{name}.untrained": _cfg() for name in VARIANTS})


def _create(name: str, pretrained: bool, **kwargs: Any) -> ConvNeur:
    if not isinstance(kwargs.get("pretrained_cfg"), (str, type(None))):  # timm has the arguments from a file
        kwargs = with_new_names(kwargs)
        config = kwargs["pretrained_cfg"]
        folder = config.get("file") if isinstance(config, Mapping) else config.file
        weights = Path(folder or "") / "model.safetensors"
        if "preset" not in kwargs and folder and weights.is_file():
            kwargs["preset"] = preset_of(read_header(weights).tensors)
    sizes = {key: value for key, value in asdict(VARIANTS[name]).items() if key in ("dims", "depths")}
    return build_model_with_cfg(
        ConvNeur,
        name,
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        pretrained_filter_fn=_same_memory,
        **{**sizes, **kwargs},
    )


def _same_memory(weights: Mapping[str, Any], model: ConvNeur) -> Mapping[str, Any]:
    """Weights as they are, unless they are of another memory than the model's."""
    theirs, ours = ([name for name in each if ".memory." in name] for each in (weights, model.state_dict()))
    if theirs and ours and preset_of(theirs) != preset_of(ours):
        raise ValueError(f"the weights are of a model with another memory; add preset={preset_of(theirs)!r}")
    return weights


@register_model
def convneur_m1(pretrained: bool = False, **kwargs: Any) -> ConvNeur:
    """ConvNeur-M1: ConvNeXt-Atto with a neural memory."""
    return _create("convneur_m1", pretrained, **kwargs)


@register_model
def convneur_m2(pretrained: bool = False, **kwargs: Any) -> ConvNeur:
    """ConvNeur-M2: ConvNeXt-Femto with a neural memory."""
    return _create("convneur_m2", pretrained, **kwargs)


@register_model
def convneur_m3(pretrained: bool = False, **kwargs: Any) -> ConvNeur:
    """ConvNeur-M3: ConvNeXt-Pico with a neural memory."""
    return _create("convneur_m3", pretrained, **kwargs)


@register_model
def convneur_m4(pretrained: bool = False, **kwargs: Any) -> ConvNeur:
    """ConvNeur-M4: ConvNeXt-Nano with a neural memory."""
    return _create("convneur_m4", pretrained, **kwargs)


def create_model(name: str = "convneur_m1", pretrained: bool = False, **kwargs: Any) -> ConvNeur:
    """Create a ConvNeur; the same as ``timm.create_model``, but an unknown name suggests the closest.

    Args:
        name: A variant, ``convneur_m1`` to ``convneur_m4``.
        pretrained: Load weights, where timm knows any.
        **kwargs: Arguments of `ConvNeur`, and timm's ``features_only``, ``out_indices``, ``checkpoint_path``.

    Raises:
        ValueError: For an unknown name or an argument out of range.
    """
    return cast(ConvNeur, timm.create_model(choose(name, VARIANTS, "variant"), pretrained=pretrained, **kwargs))
