"""Backbones that give maps, inside larger models: which layer is which, what is frozen, how fast each part learns."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.models import group_parameters
from timm.models._features import FeatureGetterNet
from timm.optim import param_groups_layer_decay
from timm.utils.model import freeze_batch_norm_2d
from torch import Tensor, nn

from convneur.data.transforms import Preprocessing
from convneur.models import VARIANTS, ConvNeur
from convneur.models.image_sizes import reason, why_not_size
from convneur_options.run import RunConfig


def with_maps(backbone: str | nn.Module, arguments: dict[str, Any]) -> nn.Module:
    """What gives a list of maps, and has ``feature_info``."""
    if isinstance(backbone, str):
        check_any_size(backbone, arguments)
        return timm.create_model(backbone, features_only=True, **arguments)
    if isinstance(backbone, ConvNeur):
        return FeatureGetterNet(backbone, out_indices=tuple(range(len(backbone.stages))))
    return backbone


def check_any_size(backbone: str, arguments: Mapping[str, Any]) -> None:
    """A ValueError for a model of timm that takes images of one size only, unless the arguments change that."""
    described = timm.get_pretrained_cfg(backbone, allow_unregistered=False) if timm.is_model(backbone) else None
    if getattr(described, "fixed_input_size", False) and not {"img_size", "strict_img_size", "dynamic_img_size"} & set(
        arguments
    ):
        raise ValueError(
            f"{backbone} takes images of one size only, and here they are of any; choose another backbone, or, from "
            "Python, give it what timm has for that (strict_img_size=False of Swin)"
        )


def refuse_backbone_of_some_sizes(name: str) -> None:
    """A ValueError for a ``--model`` that fails at some sizes, such as windows that have to fit; timm does not tell."""
    if name in VARIANTS:
        return
    check_any_size(name, {})
    try:
        with torch.random.fork_rng(devices=()), torch.device("meta"):
            made = timm.create_model(name, features_only=True).eval()
    except Exception:  # one without maps: said where the model is made
        return
    if (error := why_not_size(made, (3, 96, 160))) is not None:
        raise ValueError(
            f"--model {name} takes images of some sizes only, and here they are of any ({reason(error)} at 96x160 px); "
            "choose another backbone"
        )


def require_backbone(name: str) -> None:
    """A ValueError for a ``--model`` that timm does not know."""
    if name not in VARIANTS and not timm.is_model(name):
        near = difflib.get_close_matches(name, [*VARIANTS, *timm.list_models()], 1)
        instead = f"did you mean {near[0]!r}?" if near else f"give one of {', '.join(VARIANTS)}, or a model of timm"
        raise ValueError(f"--model {name} is unknown; {instead}")


def refuse_backbone_settings(config: RunConfig, recipe: Any, recipes: Mapping[str, Any]) -> None:
    """A ValueError for settings of a ConvNeur that were given for another model."""
    require_backbone(config.model)
    if config.model not in VARIANTS and all(recipe.backbone != each.backbone for each in recipes.values()):
        raise ValueError(
            f"--backbone.* mean nothing to --model {config.model}; they are for {', '.join(VARIANTS)}: leave them out"
        )


def body_of(detector: nn.Module) -> nn.Module:
    """The backbone of a detector."""
    pyramid: Any = detector.get_submodule("backbone")
    body: nn.Module = pyramid.body
    return body


def backbone_preprocessing(name: str, mean: Any, std: Any, image_size: int | None) -> Preprocessing:
    """What timm says that a backbone expects, with the mean and deviation of pixels of what stands on it."""
    described: Any = timm.get_pretrained_cfg(name)
    return Preprocessing.of(described.to_dict() | {"mean": mean, "std": std}, image_size)


def body_maps(body: nn.Module, images: Tensor) -> list[Tensor]:
    """Maps of the stages (B, C, H, W) of a backbone that gives maps."""
    found: Any = body(images)
    maps = list(found.values()) if isinstance(found, Mapping) else list(found)
    channels_last = getattr(body, "output_fmt", "NCHW") == "NHWC"  # Swin's maps, for one
    return [each.permute(0, 3, 1, 2) if channels_last else each for each in maps]


def layer_numbers(body: nn.Module) -> dict[str, int]:
    """Which layer of a backbone each parameter is in: 0 for the stem, then the stages."""
    if isinstance(body, FeatureGetterNet):
        inner: Any = body.model
        numbers = group_parameters(inner, inner.group_matcher(coarse=True), reverse=True)
        return {f"model.{name}": number for name, number in numbers.items()}
    # Children in the order in which they run; those whose map is returned begin a stage.
    found: dict[str, int] = {}
    ends, layer = set(getattr(body, "return_layers", ())), 0
    for child, module in body.named_children():
        names = [f"{child}.{name}" for name, _ in module.named_parameters()]
        layer += bool(names) and child in ends
        found |= dict.fromkeys(names, layer)
    return found


def freeze_stages(body: nn.Module, stages: int) -> None:
    """Let the stem (1), the first stage too (2), and so on, learn nothing; batch norms there keep their statistics.

    Args:
        body: Backbone that gives maps, such as `FeaturePyramid.body`; changed in place.
        stages: How many, the stem being the first; 0 for none.

    Raises:
        ValueError: If there are not so many.
    """
    if not stages:
        return
    numbers = layer_numbers(body)
    most = max(numbers.values())
    if not 0 <= stages <= most:
        raise ValueError(f"frozen_stages={stages} is out of range; give 0 to {most}")
    for name, parameter in body.named_parameters():
        if numbers[name] < stages:
            parameter.requires_grad_(False)
    for name, module in list(body.named_modules()):
        if isinstance(module, nn.BatchNorm2d) and not any(p.requires_grad for p in module.parameters()):
            parent, _, own = name.rpartition(".")
            setattr(body.get_submodule(parent), own, freeze_batch_norm_2d(module))


def body_and_head_groups(
    model: nn.Module,
    body: nn.Module,
    lr: float,
    weight_decay: float = 0.05,
    global_lr_scale: float = 0.1,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Groups for an optimizer: those of the backbone, and of what stands on it.

    Args:
        model: The whole.
        body: Its backbone, that gives maps.
        lr: Learning rate of all but the global branches and, with ``layer_decay``, lower layers.
        weight_decay: Of weight matrices outside the global branches.
        global_lr_scale: Learning rate of the global branches over ``lr``.
        layer_decay: Learning rate of a layer of the backbone over that of the next one.

    Returns:
        Groups with ``name``, ``params``, ``lr`` and ``weight_decay``. Frozen parameters are in none.
    """
    inner = body.model if isinstance(body, FeatureGetterNet) else None
    groups: list[dict[str, Any]] = []
    if isinstance(inner, ConvNeur):
        groups += inner.parameter_groups(layer_decay * lr, weight_decay, global_lr_scale, layer_decay)
    else:
        numbers = layer_numbers(body)
        top = 1 + max(numbers.values())
        for name, parameter in body.named_parameters():
            rate = lr * layer_decay ** (top - numbers[name])
            _add(groups, f"layer_{numbers[name]}" if layer_decay != 1.0 else "backbone", parameter, rate, weight_decay)
    inside = {id(parameter) for parameter in body.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in inside:
            _add(groups, "head", parameter, lr, weight_decay)
    return groups


def classifier_parts(model: nn.Module) -> tuple[nn.Module, ...]:
    """The last layers of a classifier of timm; distilled ones have two."""
    inner: Any = model
    found = inner.get_classifier()
    return tuple(found) if isinstance(found, tuple | list | nn.ModuleList) else (found,)


def classifier_groups(
    model: nn.Module, lr: float, weight_decay: float = 0.05, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Groups for an optimizer of any classifier of timm: timm's, with the classifier apart."""
    inner: Any = model
    kept = inner.no_weight_decay() if hasattr(inner, "no_weight_decay") else ()
    head = {id(parameter) for part in classifier_parts(model) for parameter in part.parameters()}
    groups: list[dict[str, Any]] = []
    for number, each in enumerate(param_groups_layer_decay(model, weight_decay, kept, layer_decay=layer_decay)):
        for name, inside in (("body", False), ("head", True)):
            parameters = [parameter for parameter in each["params"] if (id(parameter) in head) == inside]
            if parameters:
                rate = {"lr": lr * each["lr_scale"], "weight_decay": each["weight_decay"]}
                groups.append({"name": f"{name}_{number}", "params": parameters, **rate})
    return groups


def _add(groups: list[dict[str, Any]], name: str, parameter: nn.Parameter, lr: float, weight_decay: float) -> None:
    if not parameter.requires_grad:
        return
    decays = parameter.ndim > 1
    name += "_decay" if decays else "_no_decay"
    for group in groups:
        if group["name"] == name:
            group["params"].append(parameter)
            return
    groups.append({"name": name, "params": [parameter], "lr": lr, "weight_decay": weight_decay if decays else 0.0})
