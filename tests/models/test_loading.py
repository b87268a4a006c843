"""A finished model is loaded whole, or refused in one line that names the file, the place and what to do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import convneur
from convneur.models import load_model, save_model
from convneur.tasks.detection import load_detector
from convneur_command.main import main
from tests.hostile.models import (
    LABELS,
    LOADERS,
    answer,
    change,
    change_weights,
)
from tests.models.loading import in_turn, refusal


def test_what_was_saved_comes_back_the_same(task, folder):
    first, again = (LOADERS[task](folder) for _ in range(2))
    assert torch.equal(answer(task, first), answer(task, again))
    assert (first.code.classes if task == "segmenter" else first.classes) == LABELS


WEIGHTS: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "one is missing": (lambda w: w.pop(max(w)), "it lacks {last}"),
    "one too many": (lambda w: w.update(extra=torch.zeros(2)), "it has extra, which the model has not"),
    "another shape": (lambda w: w.update({max(w): w[max(w)][..., None].clone()}), "{last} is of shape"),
    "whole numbers": (lambda w: w.update({max(w): w[max(w)].to(torch.int8)}), "{last} is of whole numbers"),
    "not finite": (lambda w: w[max(w)].fill_(torch.nan), "no finite numbers, in {last}"),
    "infinite": (lambda w: w[max(w)].fill_(torch.inf), "no finite numbers, in {last}"),
    "too large": (lambda w: w.update({max(w): w[max(w)].double() + 1e300}), "no finite numbers, in {last}"),
    "none at all": (lambda w: w.clear(), "it lacks"),
}


@in_turn("edit, told", WEIGHTS.values())
def test_weights_that_are_not_the_model_are_refused_by_name(task, folder, edit, told):
    last = max(load_file(folder / "model.safetensors"))
    change_weights(folder, edit)
    said = refusal(LOADERS[task], folder)
    assert told.format(last=last) in said
    assert str(folder) in said
    assert "model.safetensors" in said


@in_turn("dtype", [torch.float16, torch.bfloat16, torch.float64])
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


@in_turn("kind", ["folder", "pipe", "missing", "text", "huge header"])
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
    from convneur.tasks.inspection import open_any

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
    from convneur.tasks.given_weights import tell_new

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


def test_statistics_below_zero_give_no_numbers(tmp_path):
    model = timm.create_model("test_resnet", num_classes=3)
    save_model(model, tmp_path / "model", {"num_classes": 3}, ["a", "b", "c"])
    change_weights(tmp_path / "model", lambda w: w.update({"bn1.running_var": -torch.ones_like(w["bn1.running_var"])}))
    with pytest.raises(ValueError, match="gives answers that are no finite numbers"):
        load_model(tmp_path / "model")
