"""The maps of a timm backbone as a feature pyramid for torchvision's detectors.

torchvision's own `BackboneWithFPN` runs the children of a model one after the other, which is not what timm's models
do in their forward pass. Here the model runs itself.

Shape letters: B batch, C channels, H W pixels of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import timm
from timm.models import group_parameters
from timm.models._features import FeatureGetterNet
from timm.utils.model import freeze_batch_norm_2d
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from convneur.models import ConvNeur

STRIDES = (4, 8, 16, 32)


class FeaturePyramid(nn.Module):
    """A backbone and a feature pyramid network (Lin et al., CVPR 2017) behind it.

    Args:
        backbone: Name of a timm model, a `ConvNeur`, or what timm makes with ``features_only=True``.
        strides: Of the maps that the pyramid is built from, pixels of the image per pixel of the map.
        out_channels: C of each level.
        extra_blocks: More levels above; torchvision's ``LastLevelMaxPool`` or ``LastLevelP6P7``.
        norm_layer: Norm after each convolution of the pyramid, from its channels; None for none.
        **arguments: Of the timm model, if it is given by name.

    Attributes:
        body: The backbone, images -> maps.
        out_channels: C, which torchvision asks for.

    Raises:
        ValueError: If the backbone has no map of a stride.
    """

    def __init__(
        self,
        backbone: str | nn.Module = "convneur_m1",
        strides: Sequence[int] = STRIDES,
        out_channels: int = 256,
        extra_blocks: ExtraFPNBlock | None = None,
        norm_layer: Callable[[int], nn.Module] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        self.body = _with_maps(backbone, arguments)
        info: Any = self.body.feature_info
        found = info.reduction()
        missing = [stride for stride in strides if stride not in found]
        if missing:
            raise ValueError(
                f"the backbone has maps of stride {', '.join(map(str, found))}, and the pyramid needs "
                f"{', '.join(map(str, missing))}; choose another backbone"
            )
        self.channels_last = getattr(self.body, "output_fmt", "NCHW") == "NHWC"  # Swin's maps, for one
        self.take = [found.index(stride) for stride in strides]
        channels = info.channels()
        self.fpn = FeaturePyramidNetwork([channels[i] for i in self.take], out_channels, extra_blocks, norm_layer)
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) -> levels by name: "0" is the finest, what extra blocks add has names of theirs."""
        maps = self.body(images)
        if self.channels_last:
            maps = [each.permute(0, 3, 1, 2) for each in maps]
        return self.fpn({str(level): maps[i] for level, i in enumerate(self.take)})


def _with_maps(backbone: str | nn.Module, arguments: dict[str, Any]) -> nn.Module:
    """What gives a list of maps, and has ``feature_info``."""
    if isinstance(backbone, str):
        return timm.create_model(backbone, features_only=True, **arguments)
    if isinstance(backbone, ConvNeur):
        return FeatureGetterNet(backbone, out_indices=tuple(range(len(backbone.stages))))
    return backbone


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


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float = 0.05, global_lr_scale: float = 0.1, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Groups for an optimizer: those of the backbone, and of what stands on it.

    Args:
        model: A detector with a `FeaturePyramid` as ``backbone``.
        lr: Learning rate of all but the global branches and, with ``layer_decay``, lower layers.
        weight_decay: Of weight matrices outside the global branches.
        global_lr_scale: Learning rate of the global branches over ``lr``.
        layer_decay: Learning rate of a layer of the backbone over that of the next one.

    Returns:
        Groups with ``name``, ``params``, ``lr`` and ``weight_decay``. Frozen parameters are in none.
    """
    pyramid: Any = model.get_submodule("backbone")
    body = pyramid.body
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
            _add(groups, "detector", parameter, lr, weight_decay)
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
