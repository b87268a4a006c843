"""Cascade R-CNN (Cai and Vasconcelos, CVPR 2018 and TPAMI 2019) on torchvision's parts.

Three heads one after the other: each takes the boxes of the one before, refined, and learns from those that overlap
the truth by more. With masks, each head has a mask head that learns from its own samples (TPAMI, figure 7c).

Shape letters: N boxes over all images, K classes with the background, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_inference, maskrcnn_loss
from torchvision.ops import boxes as box_ops

Targets = list[dict[str, Tensor]]
Sizes = list[tuple[int, int]]

IOUS = (0.5, 0.6, 0.7)
# One over the standard deviations of what is regressed, which falls from stage to stage (published).
BOX_WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
SMALLEST = 1e-2  # pixels a side, as in torchvision; smaller boxes go


class AgnosticPredictor(nn.Module):
    """Scores per class and one box for all of them, (N, C) -> (N, K), (N, 4).

    Args:
        in_channels: C.
        num_classes: K.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features of each box -> scores and what its box should change."""
        x = x.flatten(1)
        return self.cls_score(x), self.bbox_pred(x)


class CascadeRoIHeads(nn.Module):
    """Several `RoIHeads`, each on the boxes of the one before.

    In training the losses of the stages are averaged for what the heads stand on, while each head learns from its own
    in full (as published: losses averaged, learning rates of the heads scaled up in turn). In inference the scores of
    all stages are averaged on the last stage's boxes; so are the masks.

    Args:
        stages: `RoIHeads` whose ``box_predictor`` is an `AgnosticPredictor`; see `cascade_stage`.
    """

    def __init__(self, stages: Sequence[RoIHeads]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def has_mask(self) -> bool:
        """Whether masks are predicted, too (torchvision)."""
        return bool(self._heads()[0].has_mask())

    def _heads(self) -> list[Any]:
        return list(self.stages)

    def forward(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: Sizes, targets: Targets | None = None
    ) -> tuple[Targets, dict[str, Tensor]]:
        """Boxes that were proposed -> detections and no losses, or in training losses and no detections.

        Args:
            features: Levels of the pyramid.
            proposals: Per image, (n, 4) corners in pixels.
            image_shapes: (height, width) of the images without padding.
            targets: Per image ``boxes``, ``labels``, and ``masks`` where masks are predicted; needed in training.
        """
        if not self.training:
            return self._detect(features, proposals, image_shapes), {}
        if targets is None:
            raise ValueError("training needs targets")
        return [], self._losses(features, proposals, image_shapes, targets)

    def _losses(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: Sizes, targets: Targets
    ) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        share = 1 / len(self.stages)
        features = {name: _ScaledGradient.apply(level, share) for name, level in features.items()}
        for number, head in enumerate(self._heads(), start=1):
            proposals, matched, labels, regression = head.select_training_samples(proposals, targets)
            logits, deltas = _predict(head, features, proposals, image_shapes)
            every = deltas.repeat(1, logits.shape[1])  # one box for all classes
            losses[f"loss_classifier_{number}"], losses[f"loss_box_reg_{number}"] = fastrcnn_loss(
                logits, every, labels, regression
            )
            if head.has_mask():
                losses[f"loss_mask_{number}"] = _mask_loss(
                    head, features, proposals, image_shapes, targets, matched, labels
                )
            if number < len(self.stages):
                proposals = _refine(head, deltas, proposals, image_shapes, targets)
        return losses

    def _detect(self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: Sizes) -> Targets:
        scores = []
        for number, head in enumerate(self._heads(), start=1):
            logits, deltas = _predict(head, features, proposals, image_shapes)
            scores.append(logits.softmax(-1))
            if number < len(self.stages):
                proposals = _refine(head, deltas, proposals, image_shapes)
        mean = torch.stack(scores).mean(0)
        # torchvision takes logits, and boxes for each class
        last = self._heads()[-1]
        boxes, found_scores, labels = last.postprocess_detections(
            mean.clamp(min=torch.finfo(mean.dtype).tiny).log(), deltas.repeat(1, mean.shape[1]), proposals, image_shapes
        )
        found = [{"boxes": b, "labels": k, "scores": s} for b, k, s in zip(boxes, labels, found_scores, strict=True)]
        if self.has_mask():
            for each, masks in zip(found, self._masks(features, boxes, labels, image_shapes), strict=True):
                each["masks"] = masks
        return found

    def _masks(
        self, features: dict[str, Tensor], boxes: list[Tensor], labels: list[Tensor], image_shapes: Sizes
    ) -> list[Tensor]:
        """Mean of what the stages' mask heads say of each box, per image (n, 1, side, side)."""
        said = [maskrcnn_inference(_mask_logits(head, features, boxes, image_shapes), labels) for head in self._heads()]
        return [torch.stack(masks).mean(0) for masks in zip(*said, strict=True)]


def cascade_stage(number: int, num_classes: int, **parts: Any) -> RoIHeads:
    """One stage, from 0, with its IoU and its scale of boxes.

    Args:
        number: Of the stage.
        num_classes: K.
        **parts: Other arguments of torchvision's `RoIHeads`: pools, heads and thresholds.
    """
    return RoIHeads(
        box_predictor=AgnosticPredictor(1024, num_classes),
        fg_iou_thresh=IOUS[number],
        bg_iou_thresh=IOUS[number],
        bbox_reg_weights=BOX_WEIGHTS[number],
        **parts,
    )


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.scale, None


def _predict(
    head: Any, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: Sizes
) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and changes of the boxes (N, 4)."""
    return head.box_predictor(head.box_head(head.box_roi_pool(features, proposals, image_shapes)))


def _refine(
    head: Any, deltas: Tensor, proposals: list[Tensor], image_shapes: Sizes, targets: Targets | None = None
) -> list[Tensor]:
    """Boxes for the next stage; in training without the truth, which was put among the proposals."""
    boxes = head.box_coder.decode(deltas.detach(), proposals)[:, 0].split([len(p) for p in proposals])
    refined = []
    for number, (each, shape) in enumerate(zip(boxes, image_shapes, strict=True)):
        clipped = box_ops.clip_boxes_to_image(each, shape)
        if targets is not None:
            true = targets[number]["boxes"].to(proposals[number])
            given = (proposals[number][:, None] == true).all(-1).any(1)
            clipped = clipped[~given]
            clipped = clipped[box_ops.remove_small_boxes(clipped, SMALLEST)]
        refined.append(clipped)
    return refined


def _mask_logits(head: Any, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: Sizes) -> Tensor:
    """(N, K, side, side)."""
    return head.mask_predictor(head.mask_head(head.mask_roi_pool(features, boxes, image_shapes)))


def _mask_loss(
    head: Any,
    features: dict[str, Tensor],
    proposals: list[Tensor],
    image_shapes: Sizes,
    targets: Targets,
    matched: list[Tensor],
    labels: list[Tensor],
) -> Tensor:
    """Loss of the masks of those boxes that hold something."""
    hold = [(each > 0).nonzero().flatten() for each in labels]
    boxes = [each[kept] for each, kept in zip(proposals, hold, strict=True)]
    truth = [each[kept] for each, kept in zip(matched, hold, strict=True)]
    logits = _mask_logits(head, features, boxes, image_shapes)
    return maskrcnn_loss(logits, boxes, [t["masks"] for t in targets], [t["labels"] for t in targets], truth)
