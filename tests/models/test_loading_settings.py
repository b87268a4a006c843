"""What config.json says of a model is checked value by value; a refusal is one line that names the place."""

from __future__ import annotations

import json
import resource
import shutil
import time
from itertools import product

import pytest
import timm

from convneur.models import load_model, save_model
from convneur.models.metadata import ModelMetadata
from convneur.printing import printable
from tests.hostile.models import (
    ARGUMENTS,
    BACKBONE,
    LABELS,
    LOADERS,
    change,
)
from tests.models.loading import in_turn, refusal

SIZES = {
    "dims": [9_000] * 4,
    "depths": [1_000_000, 1, 1, 1],
    "memory_width": 60_000,
    "patch_size": 4_000,
    "in_chans": 50_000,
}


@in_turn("name, value", [*SIZES.items(), ("depths", [20_000, 1, 1, 1]), ("dims", [10**19] * 4)])
def test_sizes_are_compared_with_the_file_before_anything_is_made(task, folder, name, value):
    change(folder, (*BACKBONE[task], name), value)
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    refusal(LOADERS[task], folder)
    assert time.process_time() - begun < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


@in_turn("count", [5, 60_000, 5_000_000, 10**18, None, "3", 3.0, True, -1, [3]])
def test_another_number_of_classes_than_the_weights_have_is_refused(task, folder, count):
    config = json.loads((folder / "config.json").read_text())
    del config["label_names"]  # or they would tell
    inside = config[ARGUMENTS[task][0]]
    inside["num_classes"] = count
    if task == "classifier":
        config["num_classes"] = count
    (folder / "config.json").write_text(json.dumps(config))
    begun = time.process_time()
    assert str(folder) in refusal(LOADERS[task], folder)
    assert time.process_time() - begun < 10


def test_classes_of_a_classifier_are_those_of_its_weights(models, tmp_path):
    """Where config.json contradicts itself, too: timm would leave the head out and go on."""
    for place in (("num_classes",), ("model_args", "num_classes")):
        folder = shutil.copytree(models["classifier"], tmp_path / "-".join(place))
        change(folder, place, 4)
        change(folder, ("label_names",), [])
        assert "num_classes" in refusal(load_model, folder) or "head.fc" in refusal(load_model, folder)


@pytest.mark.parametrize(
    ("task", "name", "value"),
    [
        ("detector", "out_channels", 9_000),
        ("detector", "out_channels", 32),
        ("detector", "min_size", 10**7),
        ("detector", "max_size", 10**7),
        ("detector", "rpn_post_nms_top_n_test", 10**8),
        ("detector", "rpn_nms_thresh", "high"),
        ("detector", "smallest_anchor", 10**9),
        ("detector", "image_mean", [0.1]),
        ("detector", "image_std", [0.1, 0, 0.1]),
        ("detector", "box_head", {}),
        ("detector", "kind", "yolo"),
        ("detector", "kind", ["faster_rcnn"]),
        ("detector", "kind", "mask_rcnn"),
        ("detector", "backbone", "hf-hub:some/body"),
        ("detector", "backbone", ["resnet18"]),
        ("detector", "backbone", "resnet18"),
        ("detector", "weights_backbone", "imagenet"),
        ("segmenter", "decoder", "mask2former"),
        ("segmenter", "channels", 64_000),
        ("segmenter", "pyramid_channels", 64),
        ("segmenter", "dropout", "much"),
        ("segmenter", "encoder_weights", "imagenet"),
        ("segmenter", "checkpoint_path", "/etc/passwd"),
    ],
)
def test_settings_of_what_stands_on_a_backbone(task, models, tmp_path, name, value):
    folder = shutil.copytree(models[task], tmp_path / "copy")
    change(folder, (*ARGUMENTS[task], name), value)
    said = refusal(LOADERS[task], folder)
    assert "config.json" in said
    assert str(folder) in said


FACTORY = (
    "features_only pretrained pretrained_cfg pretrained_cfg_overlay checkpoint_path cache_dir scriptable exportable "
    "no_jit out_indices feature_cls pruned pretrained_strict nonsense"
).split()


@in_turn("name, value", product(FACTORY, [True, "/dev/zero", {"file": "/dev/zero", "url": "http://localhost:1/x"}]))
def test_arguments_that_load_or_change_something_else_are_refused(task, folder, name, value):
    if name == "pretrained" and task != "classifier":
        pytest.skip("what a backbone began with is known to be of no more use")
    change(folder, (*BACKBONE[task], name), value)
    assert f"{name} is none of its settings" in refusal(LOADERS[task], folder)


def test_an_architecture_of_timm_takes_no_arguments_of_its_factory(tmp_path):
    save_model(timm.create_model("test_convnext", num_classes=3), tmp_path, {})
    assert load_model(tmp_path).model.num_classes == 3
    change(tmp_path, ("model_args",), {"checkpoint_path": "/etc/passwd"})
    assert "checkpoint_path is none of its settings" in refusal(load_model, tmp_path)
    change(tmp_path, ("model_args",), {"dims": [60_000] * 4})
    assert "model.safetensors does not hold the model" in refusal(load_model, tmp_path)
    change(tmp_path, ("model_args",), {"depths": [60_000] * 4})
    assert "more layers than the file has weights for" in refusal(load_model, tmp_path)


@pytest.mark.parametrize("architecture", ["resnet18", "no_such", "hf-hub:some/body", "", None, 7, ["x"]])
def test_another_architecture_is_refused(models, tmp_path, architecture):
    folder = shutil.copytree(models["classifier"], tmp_path / "copy")
    change(folder, ("architecture",), architecture)
    refusal(load_model, folder)


BAD_LABELS = [["cat"], [*LABELS, "x"], [1, 2, 3], ["a", None, "b"], [["a"], "b", "c"], "abc", 200.0, {"0": "a"}]


@in_turn("labels", BAD_LABELS)
def test_labels_are_names_one_for_each_class(task, folder, labels):
    change(folder, ("label_names",), labels)
    said = refusal(LOADERS[task], folder)
    assert "label_names" in said
    assert "config.json" in said


PREPROCESSING = [
    ("crop_pct", value) for value in (None, "much", 0, -1, 1e-9, 1e9, [1], True)
] + [
    (name, value) for name in ("mean", "std") for value in (None, 0.5, "x", [], [0.5], [0.5] * 4, [None] * 3, ["a"] * 3,
                                                            [[0.5]] * 3, [1e30] * 3, {"0": 1})
] + [("std", [0, 0, 0]), ("std", [-1, 1, 1])] + [
    ("interpolation", value) for value in (None, 3, "sharp", ["bicubic"])
] + [
    ("input_size", value) for value in (None, 224, [224, 224], [3, 224], [3, 224, 224, 1], [3, 10**7, 10**7],
                                        [3, 0, 0], [3, -5, 5], [3, 224.0, 224.0], ["3", "224", "224"], [3, True, 8])
] + [("fixed_input_size", "no"), ("min_input_size", [3]), ("nonsense", 1)]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), PREPROCESSING)
def test_what_images_must_look_like_is_checked(models, tmp_path, name, value):
    folder = shutil.copytree(models["classifier"], tmp_path / "copy")
    change(folder, ("pretrained_cfg", name), value)
    said = refusal(load_model, folder)
    assert "config.json: pretrained_cfg." in said
    assert name in said


@pytest.mark.parametrize(
    ("place", "value"),
    [(("category_ids",), value) for value in (None, [1], [1, 2, "3"], [1, 2, 3.5], [1, 2, 2], {"a": 1})]
    + [(("colours",), value) for value in (None, [[0, 0, 0]], [[0, 0]] * 3, [[0, 0, 300]] * 3, [["a", 0, 0]] * 3, 7)]
    + [(("inference",), value) for value in (None, [], {"size": 10**9}, {"scales": [1e9]}, {"scales": []}, {"x": 1})]
    + [(("inference", name), "x") for name in ("size", "window", "margin", "scales", "flip")],
)
def test_what_else_detectors_and_segmenters_say_is_checked(models, tmp_path, place, value):
    task = "detector" if place[0] == "category_ids" else "segmenter"
    folder = shutil.copytree(models[task], tmp_path / "copy")
    change(folder, place, value)
    said = refusal(LOADERS[task], folder)
    assert place[0] in said
    assert "config.json" in said


NOT_JSON = {
    "nothing": b"",
    "no JSON": b"architecture: convneur_m1",
    "no UTF-8": b'{"architecture": "\xff\xfe"}',
    "nested": b'{"a": ' * 50_000 + b"1" + b"}" * 50_000,
    "lists": b"[" * 50_000,
    "a list": b"[1, 2]",
    "a number": b"7",
    "NaN": b'{"crop_pct": NaN}',
    "infinite": b'{"crop_pct": 1e999}',
    "huge": b'{"num_classes": ' + b"9" * 5_000 + b"}",
    "twice": b'{"num_classes": 3, "num_classes": 4}',
    "large": b'{"a": "' + b"x" * (17 << 20) + b'"}',
}


@in_turn("content", NOT_JSON.values())
def test_a_config_that_is_no_json_object_is_named(task, folder, content):
    (folder / "config.json").write_bytes(content)
    assert f"{folder / 'config.json'} is damaged" in refusal(LOADERS[task], folder)


def test_every_default_of_timm_is_valid_metadata():
    for name in timm.list_pretrained():
        config = timm.get_pretrained_cfg(name).to_dict()
        ModelMetadata.checked(config, config.get("label_names"))


def test_a_label_that_is_half_a_character_stays_as_it_is_and_can_be_printed(models, tmp_path):
    """Folders whose names are no UTF-8 are classes with such names, and must be known again."""
    folder = shutil.copytree(models["classifier"], tmp_path / "copy")
    change(folder, ("label_names",), ["\ud800", "b", "c"])
    classes = load_model(folder).classes
    assert classes == ["\ud800", "b", "c"]
    assert printable("".join(classes)).encode()


@pytest.mark.parametrize("changed", [{"drop_rate": 5}, {"global_pool": ""}], ids=["a rate above 1", "no pooling"])
def test_a_model_that_cannot_answer_is_refused_when_it_is_loaded(changed, tmp_path):
    model = timm.create_model("test_resnet", num_classes=3)
    save_model(model, tmp_path / "model", {"num_classes": 3}, ["a", "b", "c"])
    load_model(tmp_path / "model")
    change(tmp_path / "model", ("model_args",), {"num_classes": 3, **changed})
    with pytest.raises(ValueError, match="cannot be loaded") as caught:
        load_model(tmp_path / "model")
    assert "\n" not in str(caught.value)
