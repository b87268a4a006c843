"""ConvNeur for OpenMMLab's mmdetection, mmsegmentation and whatever else builds on mmengine's registry.

In a config:

    custom_imports = dict(imports=["convneur.integrations.openmmlab"])
    model = dict(backbone=dict(type="ConvNeur", variant="convneur_m1"))

Whole ones are in the folder ``configs`` beside this file; `config` gives their paths. They need mmdet or mmseg, and
those mmcv with its compiled operators (docs/tutorials/objects.md says how to get it). The registration needs mmengine
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

try:
    from mmengine.registry import MODELS
except ImportError as error:
    raise ImportError("OpenMMLab's models need the package mmengine; pip install mmengine") from error

from convneur.models import load_model
from convneur.models.registry_utils import choose
from convneur.models.variants import VARIANTS
from convneur.models.weights import listed
from convneur.tasks.backbone_utils import freeze_stages

CONFIGS = Path(__file__).parent / "configs"


@MODELS.register_module(name="ConvNeur")
class ConvNeurBackbone(nn.Module):
    """A backbone as OpenMMLab wants it: images (B, 3, H, W) -> a tuple of maps, the finest first.

    Args:
        variant: ``convneur_m1`` to ``convneur_m4``.
        out_indices: Stages whose maps are returned; 0 has stride 4.
        frozen_stages: Stages that learn nothing, as OpenMMLab counts: -1 for none, 0 for the stem, 1 for the first
            stage too, and so on.
        weights: Folder of a run or model of ``convneur train`` to start from; None for none.
        **arguments: Of `convneur.create_model`, such as ``drop_path_rate`` and ``memory``.

    Raises:
        ValueError: For an unknown variant, or more frozen stages than there are.
    """

    def __init__(
        self,
        variant: str = "convneur_m1",
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        weights: str | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        choose(variant, VARIANTS, "variant")
        self.body = timm.create_model(variant, features_only=True, out_indices=tuple(out_indices), **arguments)
        if weights is not None:
            given = load_model(weights).model.state_dict()
            inside: Any = self.body.model
            wanted = inside.state_dict()
            misfits = [name for name in wanted if name not in given or given[name].shape != wanted[name].shape]
            if misfits:
                raise ValueError(
                    f"weights={weights!r} do not fit {variant} with these arguments ({listed(misfits)}); give the "
                    "variant and arguments they were trained with"
                )
            inside.load_state_dict({name: given[name] for name in wanted})
        freeze_stages(self.body, frozen_stages + 1)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) -> maps (B, C, h, w), one for each of ``out_indices``."""
        return tuple(self.body(images))


def config(name: str) -> Path:
    """Path of a config that comes along.

    Args:
        name: ``cascade_mask_rcnn_1x_coco``, ``semantic_fpn_ade20k`` or ``upernet_ade20k``.

    Raises:
        ValueError: If there is none of this name.
    """
    names = sorted(path.stem for path in CONFIGS.glob("*.py"))
    return CONFIGS / f"{choose(name, names, 'config')}.py"
