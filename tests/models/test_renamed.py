"""Arguments that have another name now are taken by the old one: with a warning from people, without one from files."""

from __future__ import annotations

import inspect
import json
import warnings

import numpy as np
import pytest
import timm
import torch

import convneur
from convneur.data.semantic import MaskEncoding
from convneur.models import load_model, save_model
from convneur.tasks.registry import TASKS, task_named
from convneur.tasks.segmentation.models import create_segmenter
from convneur.tasks.segmentation.saved import load_segmenter, save_segmenter
from convneur_command.main import main
from convneur_options.renamed import with_new_values
from convneur_options.segmentation import Inference
from tests.memory.builders import stir
from tests.models.builders import SMALL, stirred

OLD, NEW = {"globalizer": "se", "carry_tokens": False}, {"token_mixer": "se", "token_skip": False}


@pytest.mark.parametrize(
    "create",
    [
        lambda **given: timm.create_model("convneur_m1", **given),
        lambda **given: timm.create_model("convneur_m1", features_only=True, **given).model,
        lambda **given: convneur.create_model("convneur_m1", **given),
        lambda **given: convneur.ConvNeur(**given),
        lambda **given: convneur.from_convnext(timm.create_model("convnext_atto"), **given),
    ],
    ids=["timm", "features", "create_model", "class", "from_convnext"],
)
def test_old_arguments_are_the_new_ones_and_warn_where_they_are_given(create):
    with pytest.warns(DeprecationWarning, match="is now called token_") as warned:
        old = create(**OLD)
    assert {each.filename for each in warned} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        assert old.global_config == create(**NEW).global_config
    assert old.global_config.token_mixer == "se"


def test_the_preset_that_was_the_default_is_linear_and_warns():
    with pytest.warns(DeprecationWarning, match="preset='default' is now called preset='linear'") as warned:
        old = timm.create_model("convneur_m1", preset="default")
    assert {each.filename for each in warned} == {__file__}
    assert old.global_config == timm.create_model("convneur_m1", preset="linear").global_config


def test_recipes_are_called_alike_in_every_task():
    assert all({"quick", "finetune"} <= set(task_named(task).recipes) for task in TASKS)


@pytest.mark.parametrize("task", TASKS[1:])
def test_recipes_are_taken_by_their_old_names(task, tmp_path, monkeypatch, capsys):
    kind = "segmentation" if task == "segmentation" else "detection"
    recipes = task_named(task).recipes
    monkeypatch.setattr("convneur.api.train_run", lambda spec, config, recipe, *rest: given.append(recipe))
    for name in ("quick", "finetune"):
        given: list = []
        with pytest.warns(DeprecationWarning, match=f"recipe='{name}-{kind}' is now called recipe='{name}'") as warned:
            convneur.train("photos", task, recipe=f"{name}-{kind}", out=tmp_path / "run")
        assert ({each.filename for each in warned}, given) == ({__file__}, [recipes[name]])
        for words in (["--recipe", f"{name}-{kind}"], [f"--recipe={name}-{kind}"]):
            assert main(["train", task, "--data", "absent", *words, "--out", str(tmp_path / "run")]) == 2
            renamed, *_, line = capsys.readouterr().err.splitlines()
            assert renamed == f"convneur: --recipe {name}-{kind} is now called {name}; the old name will be removed"
            assert "there is no folder absent" in line


def test_words_that_are_no_value_of_a_flag_stay():
    words = ["predict", "recipe", "quick-detection", "--recipe", "--preset", "x", "--out", "quick-detection", "--a=b"]
    told: list[str] = []
    assert (with_new_values(words, told.append), told) == (words, [])


def test_both_names_of_one_argument_are_refused():
    with (
        pytest.warns(DeprecationWarning, match="is now called"),
        pytest.raises(ValueError, match="globalizer and token_mixer are the same setting; give token_mixer alone"),
    ):
        convneur.ConvNeur(globalizer="se", token_mixer="se")


def test_the_signature_names_the_new_ones_alone():
    parameters = inspect.signature(convneur.ConvNeur).parameters
    assert set(NEW) <= set(parameters)
    assert not set(OLD) & set(parameters)


def rename_in(file) -> None:
    text = file.read_text()
    assert '"token_mixer"' in text
    file.write_text(text.replace('"token_mixer"', '"globalizer"').replace('"token_skip"', '"carry_tokens"'))


def test_saved_models_of_earlier_versions_are_read_without_a_word(tmp_path):
    arguments = {**SMALL, **NEW}
    save_model(timm.create_model("convneur_m1", **arguments), tmp_path, arguments)
    rename_in(tmp_path / "config.json")
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        for model in (load_model(tmp_path).model, timm.create_model(f"local-dir:{tmp_path}", pretrained=True)):
            assert model.global_config.token_mixer == "se"


def test_so_are_models_with_such_a_backbone(tmp_path):
    backbone = {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), **NEW}
    arguments = {"backbone": "convneur_m1", "num_classes": 2, "channels": 32, "backbone_args": backbone}
    code = MaskEncoding(("a", "b"), np.zeros((2, 3), np.uint8))
    save_segmenter(create_segmenter(**arguments), tmp_path, arguments, code, Inference(), "card")
    rename_in(tmp_path / "config.json")
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        found = load_segmenter(tmp_path)
    assert found.arguments["backbone_args"]["token_mixer"] == "se"


def test_they_are_saved_by_their_new_names(tmp_path):
    with pytest.warns(DeprecationWarning, match="is now called"):
        model = timm.create_model("convneur_m1", **SMALL, **OLD)
    save_model(model, tmp_path, {**SMALL, **OLD})
    assert set(NEW) <= set(json.loads((tmp_path / "config.json").read_text())["model_args"])


def forget_preset(folder, named={}) -> None:  # noqa: B006  it is not changed
    """As earlier versions wrote it, or as they wrote it where a recipe named it."""
    config = json.loads((folder / "config.json").read_text())
    arguments = config["model_args"] if "model_args" in config else config["segmenter"]["backbone_args"]
    del arguments["preset"]
    arguments |= named
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("named", [{}, {"preset": "default"}], ids=["not named", "default"])
@pytest.mark.parametrize("memory", [{}, {"memory": {"chunk_size": 4, "read": "causal"}}], ids=["", "causal"])
def test_models_with_the_memory_of_earlier_versions_answer_as_before(named, memory, tmp_path):
    """Where it was the default, no file names it."""
    model = stirred(preset="linear", **memory)
    save_model(model, tmp_path, SMALL | memory | {"preset": "linear"})
    forget_preset(tmp_path, named)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        assert torch.equal(load_model(tmp_path).model(images), model(images))
        again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        assert torch.equal(again(images), model(images))


@pytest.mark.parametrize(
    "arguments",
    [
        {"token_mixer": "pointwise"},
        {"token_mixer": "se", "memory": {"chunk_size": 4}},
        {"global_placement": "none", "memory": {"chunk_size": 4}},
    ],
    ids=str,
)
def test_so_do_earlier_models_without_a_memory_of_their_own(arguments, tmp_path):
    """Their options, and the size of the control, are those of the linear memory."""
    model = stirred(preset="linear", **arguments)
    save_model(model, tmp_path, SMALL | arguments)
    forget_preset(tmp_path)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(load_model(tmp_path).model(images), model(images))
        again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        assert torch.equal(again(images), model(images))


@pytest.mark.parametrize(("is_", "asked"), [("linear", "slots"), ("slots", "linear")])
def test_weights_of_another_memory_are_refused_by_its_name(is_, asked, tmp_path):
    model = stirred(preset=is_)
    save_model(model, tmp_path, SMALL | {"preset": is_})
    for classes in ({}, {"num_classes": 3}):  # with other classes timm does not ask for every weight
        with pytest.raises(ValueError, match=f"add preset='{is_}'"):
            timm.create_model(f"local-dir:{tmp_path}", pretrained=True, preset=asked, **classes)


@pytest.mark.parametrize("named", [{}, {"preset": "default"}], ids=["not named", "default"])
def test_so_do_models_with_such_a_backbone(named, tmp_path):
    backbone = {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1)}
    arguments = {"backbone": "convneur_m1", "num_classes": 2, "channels": 32}
    model = stir(create_segmenter(**arguments, backbone_args=backbone | {"preset": "linear"})).eval()
    code = MaskEncoding(("a", "b"), np.zeros((2, 3), np.uint8))
    arguments["backbone_args"] = backbone
    save_segmenter(model, tmp_path, arguments, code, Inference(), "card")
    forget_preset(tmp_path, named)
    found, images = load_segmenter(tmp_path), torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(found.model(images), model(images))


def test_what_is_saved_names_its_preset(tmp_path):
    """The default may be another one some day."""
    save_model(stirred(), tmp_path / "classifier", SMALL)
    arguments = {"backbone": "convneur_m1", "num_classes": 2, "channels": 32}
    code = MaskEncoding(("a", "b"), np.zeros((2, 3), np.uint8))
    save_segmenter(create_segmenter(**arguments), tmp_path / "segmenter", arguments, code, Inference(), "card")
    for folder, key in (("classifier", "model_args"), ("segmenter", "segmenter")):
        config = json.loads((tmp_path / folder / "config.json").read_text())[key]
        assert config.get("backbone_args", config)["preset"] == "slots"
