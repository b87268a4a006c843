"""DETR, RT-DETR, Mask2Former and UPerNet of transformers on a ConvNeur: forward, loss and gradients of one step.

    pip install transformers
    python examples/transformers_models.py            # all, or some of: detr rt_detr mask2former upernet

transformers takes any timm model as a backbone through TimmBackboneConfig. What to watch (transformers 5):

* `import convneur` first, also before a saved model is loaded; it registers the models with timm.
* Give `out_indices`. Without it you get the last stage alone. Ours count from 0: strides 4, 8, 16, 32.
* Give the backbone as `backbone_config`. The older keywords `backbone`, `use_timm_backbone` and `backbone_kwargs` are
  passed over or refused by some of the models.
* RT-DETR does not ask the backbone for its channels: give `encoder_in_channels`. Its `freeze_backbone_batch_norms`
  finds nothing to freeze here.
* Mask2Former and UPerNet need four maps; the former warns that the backbone is not among its own (swin), and works.
* UPerNet's auxiliary head does not ask for its channels either: give `auxiliary_in_channels`, those of the third map.
* Weights do not come along: build the model, then load them into its backbone, as `load_backbone` does.
"""

import importlib.util
import sys

import timm
import torch

if importlib.util.find_spec("transformers") is None:
    print("this example needs the package transformers; pip install transformers", file=sys.stderr)
    sys.exit(2)

from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    PreTrainedModel,
    RTDetrConfig,
    RTDetrForObjectDetection,
    TimmBackboneConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

import convneur  # noqa: F401  registers the models with timm

BACKBONE = "convneur_m1"
CLASSES = 3


def detr() -> PreTrainedModel:
    """Boxes from the last stage (stride 32)."""
    backbone = TimmBackboneConfig(backbone=BACKBONE, out_indices=[3])
    return DetrForObjectDetection(DetrConfig(backbone_config=backbone, num_labels=CLASSES, num_queries=20))


def rt_detr() -> PreTrainedModel:
    """Boxes from strides 8, 16 and 32."""
    stages = [1, 2, 3]
    channels = timm.create_model(BACKBONE, features_only=True, out_indices=stages).feature_info.channels()
    return RTDetrForObjectDetection(
        RTDetrConfig(
            backbone_config=TimmBackboneConfig(backbone=BACKBONE, out_indices=stages),
            encoder_in_channels=channels,
            num_labels=CLASSES,
            num_queries=20,
        )
    )


def mask2former() -> PreTrainedModel:
    """Masks from strides 4 to 32."""
    backbone = TimmBackboneConfig(backbone=BACKBONE, out_indices=[0, 1, 2, 3])
    return Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(backbone_config=backbone, num_labels=CLASSES, num_queries=20)
    )


def upernet() -> PreTrainedModel:
    """A class for every pixel from strides 4 to 32."""
    stages = [0, 1, 2, 3]
    channels = timm.create_model(BACKBONE, features_only=True, out_indices=stages).feature_info.channels()
    return UperNetForSemanticSegmentation(
        UperNetConfig(
            backbone_config=TimmBackboneConfig(backbone=BACKBONE, out_indices=stages),
            hidden_size=64,
            auxiliary_in_channels=channels[2],
            num_labels=CLASSES,
        )
    )


MODELS = {"detr": detr, "rt_detr": rt_detr, "mask2former": mask2former, "upernet": upernet}


def load_backbone(model: PreTrainedModel, folder: str) -> int:
    """Load the weights of a classifier of `convneur train` into the backbone.

    Returns:
        How many tensors were loaded.
    """
    own = model.state_dict()
    given = timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict()
    # In transformers a backbone's names end as they do in timm, behind a prefix that differs from model to model.
    found = {
        name: value
        for name in own
        for part in ("stem.", "stages.")
        if f".{part}" in name and (value := given.get(part + name.split(f".{part}", 1)[1])) is not None
    }
    model.load_state_dict(own | found)
    return len(found)


def one_step(model: PreTrainedModel) -> torch.Tensor:
    """Loss of two made-up images with two objects each, gradients worked out."""
    images = torch.randn(2, 3, 128, 160)
    labels = torch.tensor([0, 2])
    masks = torch.zeros(2, 128, 160)
    masks[0, 20:60, 30:90] = masks[1, 70:120, 40:80] = 1
    if isinstance(model, UperNetForSemanticSegmentation):
        targets = {"labels": (2 * masks[1]).long().expand(2, -1, -1)}
    elif isinstance(model, Mask2FormerForUniversalSegmentation):
        targets = {"mask_labels": [masks] * 2, "class_labels": [labels] * 2}
    else:
        boxes = torch.tensor([[0.4, 0.3, 0.4, 0.3], [0.4, 0.7, 0.25, 0.4]])  # centre and size, as shares of the image
        targets = {"labels": [{"class_labels": labels, "boxes": boxes}] * 2}
    loss = model.train()(pixel_values=images, **targets).loss
    loss.backward()
    return loss.detach()


def main(names: list[str]) -> None:
    unknown = [name for name in names if name not in MODELS]
    if unknown:
        print(f"{unknown[0]} is not known; give some of: {', '.join(MODELS)}", file=sys.stderr)
        sys.exit(2)
    for name in names or MODELS:
        torch.manual_seed(0)
        model = MODELS[name]()
        loss = one_step(model)
        reached = [p.grad is not None for key, p in model.named_parameters() if ".stages." in key]
        print(f"{name}: loss {loss:.2f}, gradients reach {sum(reached)} of {len(reached)} tensors of the stages")


if __name__ == "__main__":
    main(sys.argv[1:])
