"""A finished model is loaded whole, or refused in one line that names the file, the place and what to do."""

from __future__ import annotations

import json
import os
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import convneur
from convneur.cli.main import main
from convneur.models import load_model, save_model
from convneur.models.metadata import ModelMetadata
from convneur.printing import printable
from convneur.tasks.detection import load_detector
from tests.hostile.models import (
    ARGUMENTS,
    BACKBONE,
    LABELS,
    LOADERS,
    TASKS,
    answer,
    change,
    change_weights,
    save,
)

Edit = Callable[[dict[str, Tensor]], Any]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {task: save(task, root / task) for task in TASKS}


@pytest.fixture(params=TASKS)
def task(request) -> str:
    return request.param


@pytest.fixture
def folder(task, models, tmp_path) -> Path:
    return Path(shutil.copytree(models[task], tmp_path / "copy"))


def refusal(load: Callable[..., Any], *given: Any) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        load(*given)
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_what_was_saved_comes_back_the_same(task, folder):
    first, again = (LOADERS[task](folder) for _ in range(2))
    assert torch.equal(answer(task, first), answer(task, again))
    assert (first.code.classes if task == "segmenter" else first.classes) == LABELS


WEIGHTS: dict[str, tuple[Edit, str]] = {
    "one is missing": (lambda w: w.pop(max(w)), "it lacks {last}"),
    "one too many": (lambda w: w.update(extra=torch.zeros(2)), "it has extra, which the model has not"),
    "another shape": (lambda w: w.update({max(w): w[max(w)][..., None].clone()}), "{last} is of shape"),
    "whole numbers": (lambda w: w.update({max(w): w[max(w)].to(torch.int8)}), "{last} is of whole numbers"),
    "not finite": (lambda w: w[max(w)].fill_(torch.nan), "no finite numbers, in {last}"),
    "infinite": (lambda w: w[max(w)].fill_(torch.inf), "no finite numbers, in {last}"),
    "too large": (lambda w: w.update({max(w): w[max(w)].double() + 1e300}), "no finite numbers, in {last}"),
    "none at all": (lambda w: w.clear(), "it lacks"),
}


@pytest.mark.parametrize(("edit", "told"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_are_not_the_model_are_refused_by_name(task, folder, edit, told):
    last = max(load_file(folder / "model.safetensors"))
    change_weights(folder, edit)
    said = refusal(LOADERS[task], folder)
    assert told.format(last=last) in said
    assert str(folder) in said
    assert "model.safetensors" in said


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_floating_type_are_taken(task, folder, dtype):
    before = answer(task, LOADERS[task](folder))
    change_weights(folder, lambda w: w.update({name: value.to(dtype) for name, value in w.items()}))
    torch.testing.assert_close(answer(task, LOADERS[task](folder)), before, rtol=0.05, atol=0.05)


def test_whole_numbers_of_batch_norms_are_kept(tmp_path):
    net = timm.create_model("resnet18", num_classes=3)
    net.bn1.num_batches_tracked.fill_(7)
    save_model(net, tmp_path, {})
    assert load_model(tmp_path).model.bn1.num_batches_tracked == 7
    change_weights(tmp_path, lambda w: w.update({"bn1.num_batches_tracked": torch.zeros(())}))
    assert "bn1.num_batches_tracked is of another type than int64" in refusal(load_model, tmp_path)


SIZES = {
    "dims": [9_000] * 4,
    "depths": [1_000_000, 1, 1, 1],
    "memory_width": 60_000,
    "patch_size": 4_000,
    "in_chans": 50_000,
}


@pytest.mark.parametrize(("name", "value"), [*SIZES.items(), ("depths", [20_000, 1, 1, 1]), ("dims", [10**19] * 4)])
def test_sizes_are_compared_with_the_file_before_anything_is_made(task, folder, name, value):
    change(folder, (*BACKBONE[task], name), value)
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    refusal(LOADERS[task], folder)
    assert time.process_time() - begun < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


@pytest.mark.parametrize("count", [5, 60_000, 5_000_000, 10**18, None, "3", 3.0, True, -1, [3]])
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


@pytest.mark.parametrize(
    "name",
    ["features_only", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir",
     "scriptable", "exportable", "no_jit", "out_indices", "feature_cls", "pruned", "pretrained_strict", "nonsense"],
)  # fmt: skip
@pytest.mark.parametrize("value", [True, "/dev/zero", {"file": "/dev/zero", "url": "http://localhost:1/x"}])
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


@pytest.mark.parametrize("labels", BAD_LABELS)
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


@pytest.mark.parametrize("content", NOT_JSON.values(), ids=NOT_JSON)
def test_a_config_that_is_no_json_object_is_named(task, folder, content):
    (folder / "config.json").write_bytes(content)
    assert f"{folder / 'config.json'} is damaged" in refusal(LOADERS[task], folder)


@pytest.mark.parametrize("kind", ["folder", "pipe", "missing", "text", "huge header"])
def test_what_is_no_safetensors_file_is_named(task, folder, kind):
    weights = folder / "model.safetensors"
    weights.unlink()
    if kind == "folder":
        weights.mkdir()
    elif kind == "pipe":
        os.mkfifo(weights)
    elif kind == "text":
        weights.write_text("nothing of the kind")
    elif kind == "huge header":
        weights.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    assert "model.safetensors" in refusal(LOADERS[task], folder)


def test_a_pickle_beside_config_json_is_never_read(task, folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for name, content in (("pytorch_model.bin", Evil()), ("model.pth", weights)):
        torch.save(content, folder / name)
        assert "safetensors only" in refusal(LOADERS[task], folder)
    assert not (tmp_path / "touched").exists()


@pytest.fixture
def hub(models, monkeypatch) -> None:
    """The hub has one repository, someone/name."""

    def download(repository, file, revision=None, **_):
        path = models["classifier"] / file
        if repository != "someone/name" or not path.exists():
            raise OSError(f"404: no {file}\nin {repository}")
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)


def test_a_model_of_the_hub_is_loaded_as_one_on_disk(hub, models):
    expected = answer("classifier", load_model(models["classifier"]))
    for source in ("hf-hub:someone/name", "hf-hub:someone/name@main", f"local-dir:{models['classifier']}"):
        loaded = load_model(source)
        assert torch.equal(answer("classifier", loaded), expected)
        assert loaded.classes == LABELS
    assert "404" in refusal(load_model, "hf-hub:someone/other")


def test_a_new_head_is_made_only_where_it_is_asked_for(models):
    loaded = load_model(models["classifier"], num_classes=5)
    assert (loaded.model.num_classes, loaded.config["num_classes"], loaded.classes) == (5, 5, None)
    kept = load_model(models["classifier"]).model.state_dict()
    assert all(torch.equal(value, kept[n]) for n, value in loaded.model.state_dict().items() if "head.fc" not in n)


def test_pretrained_weights_of_timm_are_whole(monkeypatch):
    """With another number of classes, timm would take whatever fits."""
    weights = timm.create_model("test_convnext").state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(weights))
    assert load_model("test_convnext", num_classes=3).model.num_classes == 3
    weights.pop("stages.0.blocks.0.gamma", None) if "stages.0.blocks.0.gamma" in weights else weights.pop(min(weights))
    assert "cannot be loaded" in refusal(lambda: load_model("test_convnext", num_classes=3))


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


@pytest.mark.parametrize("verb", ["predict", "eval", "embed", "explain", "export", "stream", "push", "train"])
def test_every_verb_refuses_a_model_that_is_not_whole(verb, models, tmp_path, capsys):
    folder = shutil.copytree(models["classifier"], tmp_path / "model")
    change_weights(folder, lambda w: w.pop("head.fc.weight"))
    image = Path(__file__).parents[1] / "data"
    given = {
        "predict": ["predict", str(image), "--model", str(folder)],
        "eval": ["eval", "--model", str(folder), "--data", "digits", "--out", str(tmp_path / "out")],
        "embed": ["embed", str(image), "--model", str(folder), "--out", str(tmp_path / "out")],
        "explain": ["explain", str(image), "--model", str(folder), "--out", str(tmp_path / "out")],
        "export": ["export", str(folder), "--out", str(tmp_path / "model.onnx")],
        "stream": ["stream", str(image), "--model", str(folder), "--out", str(tmp_path / "out")],
        "push": ["push", str(folder), "someone/name"],
        "train": ["train", "--data", "digits", "--weights", str(folder), "--out", str(tmp_path / "out")],
    }[verb]
    given = [str(photo(tmp_path)) if each == str(image) else each for each in given]
    assert main(given) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert "it lacks head.fc.weight" in said[-1], said


def test_the_page_opens_no_model_that_is_not_whole(models, tmp_path):
    from convneur.cli.explaining import open_any

    folder = shutil.copytree(models["classifier"], tmp_path / "model")
    change_weights(folder, lambda w: w.pop("head.fc.weight"))
    assert "it lacks head.fc.weight" in refusal(open_any, str(folder))


def photo(folder: Path) -> Path:
    from PIL import Image

    path = folder / "photos" / "a.png"
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (64, 64), (200, 10, 10)).save(path)
    return path


def test_a_warm_start_names_what_is_new(models, tmp_path, capsys):
    from convneur.printing import Console
    from convneur.recipes.given_weights import tell_new

    tell_new("w", ["head.fc.weight", "head.fc.bias", "stages.0.blocks.0.global_branch.up.weight"], Console(stderr=True))
    said = " ".join(capsys.readouterr().err.split())
    assert "new are head.fc (2 tensors), the memory (1 tensors)" in said


def test_a_warm_start_refuses_weights_with_a_memory_or_of_whole_numbers(tmp_path):
    weights = dict(convneur.create_model("convneur_m1", num_classes=2).state_dict())
    assert "left over ['stages.0" in refusal(convneur.from_convnext, weights)
    plain = dict(timm.create_model("convnext_atto", num_classes=2).state_dict())
    cases: list[tuple[str, Any, str]] = [
        ("head.fc.bias", torch.zeros(2, dtype=torch.int64), "is of type int64"),
        ("head.fc.bias", torch.full((2,), torch.nan), "no finite numbers"),
        ("head.fc.weight", torch.zeros(1, 1).expand(5_000_000, 320), "fewer numbers than its shape"),
        ("head.fc.weight", torch.zeros(()), "where 2 axes are needed"),
        ("stem.0.weight", torch.zeros(40), "where 4 axes are needed"),
        ("epoch", 7, "'epoch', which is no tensor"),
    ]
    for name, value, told in cases:
        assert told in refusal(convneur.from_convnext, plain | {name: value})
    save_file({name: value.to(torch.int8) for name, value in plain.items()}, tmp_path / "w.safetensors")
    assert "is of type int8" in refusal(convneur.from_convnext, tmp_path / "w.safetensors")


def test_a_refused_pickle_is_one_line_that_advises_to_no_risk(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    said = refusal(convneur.from_convnext, tmp_path / "evil.pth")
    assert "weights_only" not in said
    assert "()" not in said


def test_detectors_whose_backbone_began_with_pretrained_weights_still_load(models, tmp_path):
    folder = shutil.copytree(models["detector"], tmp_path / "copy")
    change(folder, ("detector", "backbone_args", "pretrained"), True)
    assert load_detector(folder).classes == LABELS


@pytest.mark.parametrize("changed", [{"drop_rate": 5}, {"global_pool": ""}], ids=["a rate above 1", "no pooling"])
def test_a_model_that_cannot_answer_is_refused_when_it_is_loaded(changed, tmp_path):
    model = timm.create_model("test_resnet", num_classes=3)
    save_model(model, tmp_path / "model", {"num_classes": 3}, ["a", "b", "c"])
    load_model(tmp_path / "model")
    change(tmp_path / "model", ("model_args",), {"num_classes": 3, **changed})
    with pytest.raises(ValueError, match="cannot be loaded") as caught:
        load_model(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_statistics_below_zero_give_no_numbers(tmp_path):
    model = timm.create_model("test_resnet", num_classes=3)
    save_model(model, tmp_path / "model", {"num_classes": 3}, ["a", "b", "c"])
    change_weights(tmp_path / "model", lambda w: w.update({"bn1.running_var": -torch.ones_like(w["bn1.running_var"])}))
    with pytest.raises(ValueError, match="gives answers that are no finite numbers"):
        load_model(tmp_path / "model")
