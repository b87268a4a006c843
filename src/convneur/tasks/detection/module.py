"""Train a detector: its losses, and average precision on held-out images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convneur.data.loading import PADDING
from convneur.data.objects import ObjectImages
from convneur.tasks.base import Task
from convneur.tasks.detection.evaluation import judge, refuse_unknown
from convneur.tasks.detection.learning import boxes_in_full_precision, parameter_groups
from convneur.tasks.detection.mask_paste import with_transform
from convneur.tasks.detection.metrics import coco_results, require_counter
from convneur_options.optim import OptimConfig


class Detection(Task):
    """Losses of one of torchvision's detectors; logs ``loss``, ``ap``, ``ap50``, ``ap75``, and for masks ``mask_ap``...

    Args:
        model: Of `create_detector`.
        optim: Optimizer settings.
        held_out: Images to judge by.
        classes: Their classes.
        category_ids: Numbers of the classes.
        with_masks: Whether masks are predicted.
        **task: Arguments of `Task`.
    """

    metric = "ap"

    def __init__(
        self,
        model: nn.Module,
        optim: OptimConfig,
        held_out: ObjectImages,
        classes: Sequence[str],
        category_ids: Sequence[int],
        with_masks: bool = False,
        **task: Any,
    ) -> None:
        super().__init__(model, optim, **task)
        self.held_out, self.classes, self.category_ids = held_out, list(classes), list(category_ids)
        self.with_masks = with_masks
        require_counter()
        self.found: list[dict[str, Any]] = []
        self.judged: list[int] = []

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Groups of the backbone and of what stands on it."""
        optim = self.optim
        return parameter_groups(self.model, lr, optim.weight_decay, optim.global_lr_scale, optim.layer_decay)

    def training_step(self, batch: Any) -> Tensor:
        """Sum of the losses of a batch."""
        with boxes_in_full_precision(self.model, self.device):
            losses = self.model(batch.images, batch.targets)
        loss = torch.stack(list(losses.values())).sum()
        self.log_loss(loss, len(batch.images))
        parts = {f"{name}_step": value.detach() for name, value in losses.items()}
        self.log_dict(parts, on_step=True, on_epoch=False, batch_size=len(batch.images))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Count afresh."""
        self.found, self.judged = [], []

    def validation_step(self, batch: Any) -> None:
        """Note what is found on a batch."""
        known = [place for place, index in enumerate(batch.indices.tolist()) if index != PADDING]
        if not known:
            return
        images = [batch.images[place] for place in known]
        numbers = [self.held_out.ids[batch.indices[place]] for place in known]
        with boxes_in_full_precision(self.best_model, self.device):
            said = with_transform(self.best_model, pasting=False)(images)
        for number, image, found in zip(numbers, images, said, strict=True):
            self.judged.append(number)
            self.found += coco_results(number, found, self.category_ids, (image.shape[1], image.shape[2]))

    def on_validation_epoch_end(self) -> None:
        """Judge what all processes found."""
        found, judged = self.found, self.judged
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, (found, judged))
            found, judged = [each for part, _ in gathered for each in part], [n for _, part in gathered for n in part]
        boxes, masks = judge(self.held_out, self.classes, self.category_ids, found, judged, self.with_masks)
        if not self.trainer.sanity_checking:  # a few images, before training, may have nothing on them
            refuse_unknown(boxes)
        for worth, prefix in ((boxes, ""), (masks, "mask_")):
            if worth is not None:
                scores = {"ap": worth.ap, "ap50": worth.ap50, "ap75": worth.ap75}
                self.log_dict({f"{prefix}{name}": value for name, value in scores.items()}, on_epoch=True)
