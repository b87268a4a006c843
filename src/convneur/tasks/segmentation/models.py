"""Semantic FPN, and segmentation-models-pytorch's decoders, on any timm backbone, for images of any size.

Shape letters: B batch, K classes, H W pixels of the image.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal, get_args

import timm
import torch.nn.functional as F
from torch import Tensor, nn

from convneur.data.semantic.masks import MOST
from convneur.models.metadata import check_types, one_of, whole
from convneur.tasks.backbone_utils import body_and_head_groups, check_any_size, freeze_stages
from convneur.tasks.segmentation.semantic_fpn import SemanticFPN

DecoderName = Literal["semantic_fpn", "upernet", "unet", "segformer", "deeplabv3plus"]
CLASSES = {
    "upernet": "UPerNet",  # Xiao et al., ECCV 2018
    "unet": "Unet",
    "segformer": "Segformer",
    "deeplabv3plus": "DeepLabV3Plus",
}
# What `create_segmenter` gives them itself, and what adds to the model
GIVEN = {"encoder_name", "encoder_weights", "classes", "aux_params"}
NEEDS = "segmentation needs the package segmentation-models-pytorch; pip install 'convneur[segmentation]'"


class Segmenter(nn.Module):
    """A model that takes images of any size.

    Args:
        net: A `SemanticFPN`, or a model of segmentation-models-pytorch whose ``encoder`` is of timm.
        stride: Sides that it takes are multiples of this.
    """

    def __init__(self, net: nn.Module, stride: int = 32) -> None:
        super().__init__()
        self.net, self.stride = net, stride

    @property
    def body(self) -> nn.Module:
        """The backbone, that gives maps."""
        net: Any = self.net
        body: nn.Module = net.pyramid.body if isinstance(net, SemanticFPN) else net.encoder.model
        return body

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> logits (B, K, H, W); padded inside to multiples of the stride."""
        height, width = images.shape[-2:]
        logits: Tensor = self.net(self.padded(images))
        # Cut by padding below zero: a slice would have another path in a graph where nothing is cut.
        return F.pad(logits, (0, width - logits.shape[3], 0, height - logits.shape[2]))

    def padded(self, images: Tensor) -> Tensor:
        """Images with zeros below and to the right, up to multiples of the stride."""
        height, width = ((side + self.stride - 1) // self.stride * self.stride for side in images.shape[-2:])
        # A whole stride, then cut: padding has another path in a graph where there is nothing to pad.
        return F.pad(images, (0, self.stride, 0, self.stride))[..., :height, :width]


def create_segmenter(
    decoder: DecoderName = "semantic_fpn",
    backbone: str = "convneur_m1",
    num_classes: int = 150,
    *,
    frozen_stages: int = 0,
    backbone_args: dict[str, Any] | None = None,
    **arguments: Any,
) -> Segmenter:
    """A decoder on a backbone.

    Args:
        decoder: ``semantic_fpn`` and ``upernet`` are the published ones.
        backbone: Name of a timm model.
        num_classes: K.
        frozen_stages: As for `convneur.tasks.backbone_utils.freeze_stages`.
        backbone_args: Of the timm model.
        **arguments: Of `SemanticFPN`, or of the class of segmentation-models-pytorch, such as ``decoder_channels`` of
            UPerNet.

    Raises:
        ValueError: For an unknown decoder or backbone, or a pair that does not go together: DeepLabV3+ needs maps of
            stride 16 at the top, which ours do not have.
        ImportError: If the package is missing.
    """
    if decoder not in get_args(DecoderName):
        raise ValueError(f"decoder={decoder!r} is not known; use one of {', '.join(get_args(DecoderName))}")
    if not timm.is_model(backbone):
        raise ValueError(f"backbone={backbone!r} is no model of timm; see timm.list_models()")
    given = dict(backbone_args or {})
    check_any_size(backbone, given)
    if decoder == "semantic_fpn":
        return _frozen(Segmenter(SemanticFPN(backbone, num_classes, **arguments, **given)), frozen_stages)
    made_by = _decoder_class(decoder)
    weights = True if given.pop("pretrained", False) else None
    made = made_by(encoder_name=f"tu-{backbone}", encoder_weights=weights, classes=num_classes, **given, **arguments)
    return _frozen(Segmenter(made), frozen_stages)


def check_arguments(arguments: Mapping[str, Any], place: str) -> None:
    """Refuse arguments of `create_segmenter` that are unknown, or of which no model can be made.

    Args:
        arguments: As JSON has them.
        place: For messages.

    Raises:
        ValueError: For the first of them.
        ImportError: If the package is missing.
    """
    decoder = arguments.get("decoder", "semantic_fpn")
    one_of(decoder, f"{place}.decoder", get_args(DecoderName))
    whole(arguments.get("num_classes"), f"{place}.num_classes", 1, MOST)
    own = inspect.signature(create_segmenter).parameters
    check_types({name: value for name, value in arguments.items() if name in own}, create_segmenter, place)
    others = {name: value for name, value in arguments.items() if name not in own}
    for name in GIVEN & set(others):
        raise ValueError(f"{place}.{name} is none of its settings")
    check_types(others, _decoder_class(decoder), place)


def _decoder_class(decoder: DecoderName) -> Any:
    if decoder == "semantic_fpn":
        return SemanticFPN
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise ImportError(NEEDS) from error
    return getattr(smp, CLASSES[decoder])


def _frozen(segmenter: Segmenter, stages: int) -> Segmenter:
    freeze_stages(segmenter.body, stages)
    return segmenter


def parameter_groups(
    model: Segmenter, lr: float, weight_decay: float = 0.05, global_lr_scale: float = 0.1, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Groups for an optimizer: those of the backbone, and of the decoder.

    The arguments and what comes back are those of `convneur.tasks.backbone_utils.body_and_head_groups`.
    """
    return body_and_head_groups(model, model.body, lr, weight_decay, global_lr_scale, layer_decay)
