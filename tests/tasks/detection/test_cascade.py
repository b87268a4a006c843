"""What makes a cascade one: each stage has its own IoU, takes refined boxes, and has a third of the say below."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from convneur.data.loading import ImageCache
from convneur.data.objects import open_objects
from convneur.data.objects.loading import TrainObjects, train_transform
from convneur.tasks.detection import cascade, create_detector, parameter_groups
from convneur.tasks.detection.cascade import IOUS, CascadeRoIHeads
from convneur.tasks.detection.metrics import average_precision, coco_results
from convneur.training.optim import scheduler
from convneur_options.optim import OptimConfig
from tests.tasks.detection.builders import detector, scenes


def heads(kind: str = "cascade_rcnn") -> CascadeRoIHeads:
    return detector(kind).roi_heads


def levels(grad: bool = False) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {str(n): torch.randn(1, 32, 32 >> n, 32 >> n, requires_grad=grad) for n in range(4)}


def target() -> dict[str, Tensor]:
    mask = torch.zeros(1, 128, 128, dtype=torch.uint8)
    mask[:, 20:70, 20:70] = 1
    return {"boxes": torch.tensor([[20.0, 20, 70, 70]]), "labels": torch.tensor([2]), "masks": mask}


def shifted() -> Tensor:
    """Boxes that overlap the target's by 0.43 to 1."""
    shifts = torch.linspace(0, 20, 41)[:, None]
    return target()["boxes"] + shifts * torch.tensor([1.0, 0, 1, 0])


def test_each_stage_takes_its_own_iou_for_a_hit():
    overlap = box_iou(shifted(), target()["boxes"])[:, 0]
    for number, stage in enumerate(heads().stages):
        _, (labels,) = stage.assign_targets_to_proposals([shifted()], [target()["boxes"]], [target()["labels"]])
        assert torch.equal(labels > 0, overlap >= IOUS[number])
        assert set(labels.tolist()) == {0, 2}
        assert stage.box_coder.weights == cascade.BOX_WEIGHTS[number]


def test_later_stages_get_the_boxes_that_earlier_ones_made(monkeypatch):
    roi_heads, seen = heads().train(), []
    for stage in roi_heads.stages:
        real = stage.select_training_samples

        def record(proposals: list[Tensor], targets: list[dict[str, Tensor]], real=real):
            seen.append(proposals[0].clone())
            return real(proposals, targets)

        monkeypatch.setattr(stage, "select_training_samples", record)
        with torch.no_grad():
            stage.box_predictor.bbox_pred.weight.zero_()
            stage.box_predictor.bbox_pred.bias.copy_(torch.tensor([1.0, 0, 0, 0]))  # to the right
    roi_heads(levels(), [shifted()], [(128, 128)], [target()])
    first, second, third = seen
    assert torch.equal(first, shifted())
    for before, after, number in ((first, second, 0), (second, third, 1)):
        step = 1 / cascade.BOX_WEIGHTS[number][0]
        widths = before[:, 2] - before[:, 0]
        expected = (before + (widths * step)[:, None] * torch.tensor([1.0, 0, 1, 0])).clamp(max=128)
        truth = (before == target()["boxes"]).all(1)
        # The boxes of the truth, which every stage is shown, do not go on; the others are sampled in any order.
        expected = expected[~truth]
        assert len(after) == len(expected)
        torch.testing.assert_close(after[after[:, 0].argsort()], expected[expected[:, 0].argsort()])


def test_stages_are_averaged_below_and_learn_in_full_themselves():
    roi_heads = heads().train()
    given, alone = levels(True), levels(True)
    monkey = cascade._ScaledGradient
    torch.manual_seed(3)
    losses = roi_heads(given, [shifted()], [(128, 128)], [target()])[1]
    sum(losses.values()).backward()
    own = [p.grad.clone() for p in roi_heads.parameters()]
    roi_heads.zero_grad()
    try:
        cascade._ScaledGradient = Plain
        torch.manual_seed(3)
        sum(roi_heads(alone, [shifted()], [(128, 128)], [target()])[1].values()).backward()
    finally:
        cascade._ScaledGradient = monkey
    for name, level in given.items():
        torch.testing.assert_close(level.grad, alone[name].grad / 3)
    torch.testing.assert_close(own, [p.grad for p in roi_heads.parameters()])


class Plain:
    @staticmethod
    def apply(x: Tensor, scale: float) -> Tensor:
        return x


def test_scores_and_masks_are_means_over_the_stages(monkeypatch):
    roi_heads = heads("cascade_mask_rcnn").eval()
    boxes = [shifted()[:4]]
    with torch.no_grad():
        for number, stage in enumerate(roi_heads.stages):
            predictor = stage.box_predictor
            for part in (predictor.cls_score, predictor.bbox_pred):
                part.weight.zero_()
                part.bias.zero_()
            predictor.cls_score.bias[1] = number  # so each is surer than the one before
            for mask_part in (stage.mask_predictor.mask_fcn_logits,):
                mask_part.weight.zero_()
                mask_part.bias.fill_(float(number))
        (found,), losses = roi_heads(levels(), boxes, [(128, 128)])
    assert losses == {}
    logits = torch.zeros(3, 4)
    logits[:, 1] = torch.arange(3.0)
    expected = logits.softmax(1).mean(0)
    kept = found["labels"] == 1
    assert kept.any()
    torch.testing.assert_close(found["scores"][kept], expected[1].expand(int(kept.sum())))
    torch.testing.assert_close(found["masks"], torch.arange(3.0).sigmoid().mean().expand_as(found["masks"]))
    expected_boxes = boxes[0]
    assert all((found["boxes"][i] - expected_boxes).abs().amax(1).min() < 1e-3 for i in range(len(found["boxes"])))


def test_every_stage_names_its_losses():
    losses = detector("cascade_mask_rcnn").train()(*scenes())
    assert {name for name in losses if name.startswith("loss_mask")} == {f"loss_mask_{n}" for n in (1, 2, 3)}
    assert {name for name in losses if name.startswith("loss_box")} == {f"loss_box_reg_{n}" for n in (1, 2, 3)}


@pytest.mark.slow
@pytest.mark.data
def test_four_photographs_are_learned_by_heart(data_dir):
    source = open_objects(data_dir / "coco_mini")
    chosen = [
        number
        for number, objects in enumerate(source.train.objects)
        if 2 <= len(objects) <= 6 and not objects.crowd.any() and (objects.areas > 900).all()
    ][:4]
    data = TrainObjects(ImageCache(source.train), train_transform(hflip=0.0), seed=0, with_masks=False)
    seen = [data[0, number] for number in chosen]
    images, targets = [each.image for each in seen], [each.target for each in seen]
    torch.manual_seed(0)
    model = create_detector(
        "cascade_rcnn",
        num_classes=len(source.classes),
        min_size=128,
        max_size=256,
        smallest_anchor=16,
        out_channels=64,
        box_batch_size_per_image=48,
        backbone_args={"ls_init_value": 0.1},
    )
    steps = 110
    optimizer = torch.optim.AdamW(parameter_groups(model, 1e-3, weight_decay=0.0))
    schedule = scheduler(optimizer, steps, OptimConfig(warmup=0.1))
    losses = []
    for _ in range(steps):
        loss = torch.stack(list(model.train()(images, targets).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    with torch.inference_mode():
        found = model.eval()(images)
    numbers = [source.train.ids[number] for number in chosen]
    truth = source.train.as_coco(source.classes, source.category_ids)
    for key, name in (("images", "id"), ("annotations", "image_id")):
        truth[key] = [each for each in truth[key] if each[name] in numbers]
    results = [
        each
        for number, one in zip(numbers, found, strict=True)
        for each in coco_results(number, one, source.category_ids)
    ]
    assert sum(losses[-5:]) / 5 < 0.05 * max(losses[:20])
    assert average_precision(truth, results).ap50 > 0.9
