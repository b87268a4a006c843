"""Average precision, held against pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import numpy as np
import pytest
import torch

from convneur.data.objects import open_objects
from convneur.data.objects.masks import decode_masks, encode_masks
from convneur.tasks.detection.metrics import average_precision, coco_results


def perturbed(truth: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """The truth, moved, doubled, mislabelled and in part lost."""
    draw = np.random.default_rng(seed)
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    numbers = [category["id"] for category in truth["categories"]]
    found = []
    for annotation in truth["annotations"]:
        for _ in range(draw.integers(0, 3)):
            height, width = sizes[annotation["image_id"]]
            (mask,) = decode_masks([annotation["segmentation"]], height, width)
            shift = draw.integers(-4, 5, 2)
            mask = np.roll(mask, shift, (0, 1))
            box = np.array(annotation["bbox"]) + draw.normal(0, 3, 4)
            box[2:] = np.maximum(box[2:], 1)
            category = annotation["category_id"] if draw.random() < 0.8 else int(draw.choice(numbers))
            found.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": category,
                    "bbox": box.tolist(),
                    "score": float(draw.random()),
                    "segmentation": encode_masks(mask[None])[0],
                }
            )
    return found


def by_pycocotools(truth: dict[str, Any], results: list[dict[str, Any]], kind: str) -> tuple[Any, Any]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # As COCO's files of masks are: beside a box, its area would be taken for that of the mask.
    results = [{key: each[key] for key in each if kind == "bbox" or key != "bbox"} for each in results]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(truth))
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(json.loads(json.dumps(results))), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats, judge.eval["precision"][..., 0, -1]


@pytest.mark.data
@pytest.mark.parametrize(("of", "kind"), [("boxes", "bbox"), ("masks", "segm")])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_pycocotools_on_real_photographs(data_dir, of, kind, seed):
    source = open_objects(data_dir / "coco_mini")
    truth = source.val.as_coco(source.classes, source.category_ids)
    results = perturbed(truth, seed)
    got = average_precision(truth, results, of)
    stats, precision = by_pycocotools(truth, results, kind)
    assert 0.05 < got.ap < 0.9
    np.testing.assert_allclose(
        [got.ap, got.ap50, got.ap75, got.small, got.medium, got.large], stats[:6], rtol=0, atol=1e-6
    )
    precision = np.where(precision < 0, np.nan, precision)
    np.testing.assert_allclose(got.precision, precision, rtol=0, atol=1e-6)
    for label, name in enumerate(source.classes):
        each = precision[..., label]
        expected = each[~np.isnan(each)].mean() if (~np.isnan(each)).any() else np.nan
        np.testing.assert_allclose(got.per_class[name], expected, rtol=0, atol=1e-6)


@pytest.mark.data
@pytest.mark.parametrize("of", ["boxes", "masks"])
def test_the_truth_itself_is_worth_one(data_dir, of):
    source = open_objects(data_dir / "coco_mini")
    truth = source.val.as_coco(source.classes, source.category_ids)
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    results = [
        each
        | {
            "score": 1.0,
            "segmentation": encode_masks(decode_masks([each["segmentation"]], *sizes[each["image_id"]]))[0],
        }
        for each in truth["annotations"]
        if not each["iscrowd"]
    ]
    got = average_precision(truth, results, of)
    assert [got.ap, got.ap50, got.ap75, got.small, got.medium, got.large] == pytest.approx([1.0] * 6)


def test_nothing_found_is_worth_nothing():
    truth = {
        "images": [{"id": 1, "height": 10, "width": 10}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 4, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}],
        "categories": [{"id": 4, "name": "dog"}],
    }
    truth["categories"] += [{"id": 5, "name": "cat"}]
    none = average_precision(truth, [])
    assert (none.ap, none.small, none.per_class["dog"]) == (0, 0, 0)
    assert np.isnan([none.medium, none.large, none.per_class["cat"]]).all()
    nothing = average_precision(truth | {"annotations": []}, [])
    assert np.isnan(nothing.ap)


def test_hundreds_of_objects_can_all_be_found():
    boxes = [[20 * (n % 20), 20 * (n // 20), 15, 15] for n in range(300)]
    truth = {
        "images": [{"id": 1, "height": 400, "width": 400}],
        "annotations": [
            {"id": n + 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 225, "iscrowd": 0}
            for n, box in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "cell"}],
    }
    results = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9} for box in boxes]
    assert average_precision(truth, results).ap == 1
    assert 0.3 < average_precision(truth, results[:100]).ap < 0.4


def test_detections_in_coco_s_form():
    mask = torch.zeros(1, 1, 8, 10)
    mask[0, 0, 2:5, 3:7] = 0.9
    detections = {
        "boxes": torch.tensor([[3.0, 2.0, 7.0, 5.0]]),
        "labels": torch.tensor([2]),
        "scores": torch.tensor([0.5]),
        "masks": mask,
    }
    (found,) = coco_results(12, detections, [4, 90])
    assert (found["image_id"], found["category_id"], found["score"]) == (12, 90, 0.5)
    assert found["bbox"] == [3, 2, 4, 3]
    json.dumps(found)
    assert decode_masks([found["segmentation"]], 8, 10)[0].sum() == 12


def test_without_the_package_it_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ImportError, match=r"pip install 'convneur\[detection\]'"):
        average_precision({"images": [], "annotations": [], "categories": []}, [])
