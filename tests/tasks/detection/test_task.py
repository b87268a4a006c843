"""A detector in the training loop: it learns, it is judged, and it goes on after a crash with the same weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convneur.data.objects import ObjectImages, ObjectSource, open_objects
from convneur.data.objects.loading import Jitter, ObjectData, train_transform
from convneur.printing import Console
from convneur.tasks.detection import create_detector
from convneur.tasks.detection.learning import boxes_in_full_precision
from convneur.tasks.detection.module import Detection
from convneur.tasks.detection.predictor import Detector
from convneur.tasks.detection.spec import DetectionSpec
from convneur.training.callbacks import Curve
from convneur.training.fit import fit
from convneur_options.detection import DetectionConfig, DetectionRecipe
from convneur_options.optim import OptimConfig
from tests.tasks.detection.builders import TINY, detector, scenes, write_scenes


def source(folder: Path) -> ObjectSource:
    return open_objects(write_scenes(folder))


def train(found: ObjectSource, kind: str, epochs: int, folder: Path | None = None, checkpoint: Path | None = None):
    masks = "mask" in kind
    data = ObjectData(found, train_transform(jitter=Jitter((0.8, 1.2), 96, 128)), 2, masks, seed=3, workers=0)
    model = detector(kind, box_batch_size_per_image=32)
    task = Detection(
        model, OptimConfig(lr=1e-3), found.val, found.classes, found.category_ids, masks, ema=0.5, seed=3, steps=8
    )
    curve: Curve = fit(
        task, data, epochs, 2, "test", Console(quiet=True), folder=folder, checkpoint=checkpoint, clip_grad=5.0
    )
    return task, curve


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mask_rcnn", "cascade_rcnn"])
def test_it_goes_on_after_a_crash_with_the_same_weights(tmp_path, kind):
    found = source(tmp_path)
    whole, curve = train(found, kind, 4, tmp_path / "whole")
    names = {"loss", "ap", "ap50", "ap75"} | ({"mask_ap", "mask_ap50", "mask_ap75"} if "mask" in kind else set())
    assert names <= set(curve[-1])
    assert all(0 <= curve[-1][name] <= 1 for name in names - {"loss"})
    assert curve[-1]["loss"] < curve[0]["loss"]
    train(found, kind, 2, tmp_path / "half")
    (checkpoint,) = sorted((tmp_path / "half" / "checkpoints").glob("*.ckpt"))[-1:]
    resumed, again = train(found, kind, 4, tmp_path / "half", checkpoint)
    assert again[-1]["loss"] == curve[-1]["loss"]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_masks_and_boxes_stay_in_step(tmp_path):
    found = source(tmp_path)
    data = ObjectData(
        found, train_transform(hflip=0.5, vflip=0.5, jitter=Jitter((0.5, 2.0), 96, 128)), 2, True, workers=0
    )
    for _ in range(3):
        for batch in data.train_dataloader():
            assert all(image.shape == (3, 96, 96) for image in batch.images)
            for target in batch.targets:
                for box, mask in zip(target["boxes"].tolist(), target["masks"], strict=True):
                    rows, columns = mask.nonzero().T
                    x0, y0, x1, y1 = box
                    assert columns.min() == pytest.approx(x0, abs=2)
                    assert rows.min() == pytest.approx(y0, abs=2)
                    assert columns.max() + 1 == pytest.approx(x1, abs=2)
                    assert rows.max() + 1 == pytest.approx(y1, abs=2)


def test_unreadable_images_are_replaced_in_training_and_count_nowhere_in_evaluation(tmp_path):
    found = source(tmp_path)
    data = ObjectData(found, train_transform(), 2, workers=0)
    seen = [note for batch in data.train_dataloader() for note in batch.unreadable]
    assert {Path(name).name for name, _ in seen} == {"train_bad.png"}
    held_out = [index for batch in data.val_dataloader() for index in batch.indices.tolist()]
    assert held_out == [0, 1, 2, -1]


def test_boxes_alone_are_not_enough_for_masks(tmp_path):
    found = source(tmp_path)
    without = [replace(each, shapes=[None] * len(each)) for each in found.train.objects]
    found.train.objects = without
    with pytest.raises(ValueError, match="convneur train detection, which needs boxes only"):
        ObjectData(found, train_transform(), 2, with_masks=True)


def test_a_picture_of_another_size_than_its_annotations_is_named(tmp_path):
    found = source(tmp_path)
    Image.new("RGB", (50, 60)).save(tmp_path / "images" / "train0.png")
    data = ObjectData(found, train_transform(), 2, workers=0)
    with pytest.raises(ValueError, match=r"train0\.png has 50 x 60 px, .* annotations are for 128 x 96"):
        list(data.train_dataloader())


def test_held_out_pictures_are_checked_as_well(tmp_path):
    found = source(tmp_path)
    Image.new("RGB", (50, 60)).save(tmp_path / "images" / "val0.png")
    with pytest.raises(ValueError, match=r"val0\.png has 50 x 60 px"):
        list(ObjectData(found, train_transform(), 2, workers=0).val_dataloader())


def test_held_out_objects_without_masks_are_refused_before_training(tmp_path):
    found = source(tmp_path)
    bare = [replace(each, shapes=[None] * len(each)) for each in found.val.objects]
    val = ObjectImages([found.val.name(n) for n in range(len(bare))], found.val.sizes, bare, found.val.ids)
    with pytest.raises(ValueError, match="a box and no mask"):
        ObjectData(replace(found, val=val), train_transform(), 2, with_masks=True)


def test_objects_that_stick_out_are_kept(tmp_path):
    found = source(tmp_path)
    first = found.train.objects[0]
    boxes = first.boxes.copy()
    boxes[0] = [-1, 5, 30, 40]
    boxes[1] = [90, 50, 128.4, 90]
    found.train.objects[0] = replace(first, boxes=boxes)
    data = ObjectData(found, train_transform(hflip=0.0), 1, workers=0)
    batch = next(b for b in data.train_dataloader() if b.indices.tolist() == [0])
    assert batch.targets[0]["boxes"][:2].tolist() == [[0, 5, 30, 40], [90, 50, 128, 90]]


def test_mixed_precision_leaves_coordinates_alone():
    model, (images, targets) = detector("faster_rcnn").train(), scenes(2)
    seen = []
    rpn = model.rpn
    rpn.anchor_generator.register_forward_hook(lambda _m, _i, anchors: seen.append(anchors[0].dtype))
    rpn.head.register_forward_hook(lambda _m, _i, said: seen.append(said[1][0].dtype))
    inside = []
    layer = next(module for module in model.backbone.body.modules() if isinstance(module, torch.nn.Conv2d))
    layer.register_forward_hook(lambda _m, _i, answer: inside.append(answer.dtype))
    with torch.autocast("cpu", torch.bfloat16), boxes_in_full_precision(model, torch.device("cpu")):
        sum(model(images, targets).values()).backward()
    assert set(seen) == {torch.float32}
    assert inside == [torch.bfloat16]
    assert model.backbone.mixed is None


def test_the_model_that_is_kept_sees_images_as_the_one_that_learned():
    """Mean and deviation of pixels are arguments, and in no state dict."""
    arguments = {"kind": "fcos", "backbone": "convneur_m1", "num_classes": 2, "image_mean": [0.1, 0.2, 0.3]}
    arguments |= {"backbone_args": dict(TINY), "out_channels": 32}
    predictor = Detector(create_detector(**arguments), arguments, ["a", "b"], [1, 2])
    again = DetectionSpec().create_again(predictor, DetectionConfig(data=""), DetectionRecipe())
    assert again.transform.image_mean == [0.1, 0.2, 0.3]


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools' own
@pytest.mark.parametrize("kind", ["mask_rcnn", "faster_rcnn"])
def test_an_answer_is_whole_as_json_and_its_masks_are_arrays(kind):
    with_masks = "mask" in kind
    arguments = {"kind": kind, "backbone": "convneur_m1"}
    few = {"rpn_post_nms_top_n_test": 20, "box_detections_per_img": 8}
    judge = Detector(detector(kind, **few).eval(), arguments, ["a", "b", "c"], [10, 20, 30])
    image = scenes(1)[0][0]
    (answer,) = judge.predict(image, score=0.0, progress=False)
    objects = json.loads(json.dumps(answer.to_dict()))["objects"]
    assert len(objects) == len(answer.boxes) > 0
    for each in objects:
        assert set(each) == {"label", "score", "box"} | ({"segmentation"} if with_masks else set())
    (nothing,) = judge.predict(image, score=1.0, progress=False)
    assert nothing.to_dict()["objects"] == []
    if not with_masks:
        assert answer.masks is nothing.masks is None
        return
    assert (answer.masks.shape, nothing.masks.shape) == ((len(objects), 96, 128), (0, 96, 128))
    assert answer.masks.dtype == bool
    assert answer.masks.any()
    pycocotools = pytest.importorskip("pycocotools.mask")
    for each, mask in zip(objects, answer.masks, strict=True):
        np.testing.assert_array_equal(pycocotools.decode(each["segmentation"]), mask)
