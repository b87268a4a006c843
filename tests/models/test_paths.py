"""Every public function takes a path as text or as any object that stands for one."""

from __future__ import annotations

import importlib
import inspect
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from convneur import from_convnext
from convneur.data.objects import open_objects
from convneur.data.semantic import open_pixels
from convneur.data.sources import open_source
from convneur.embedding import EmbedConfig, embed
from convneur.export import export_model, load_exported, open_model
from convneur.reports import write_report
from convneur.streaming import open_large, stream
from tests.data.semantic.builders import write_scenes as write_pixels
from tests.data.test_contents import classes
from tests.hostile.models import LOADERS, TASKS, save
from tests.models.builders import create
from tests.tasks.detection.builders import write_scenes as write_objects

PACKAGES = ("models", "export", "streaming", "embedding", "explain", "bench", "tasks.detection", "tasks.segmentation")


class Elsewhere(os.PathLike):
    """Not a Path, and no text says where it leads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


KINDS = pytest.mark.parametrize("kind", [str, Elsewhere])


def public_functions() -> list[object]:
    packages = [importlib.import_module(f"convneur.{name}") for name in PACKAGES]
    found = [getattr(package, name) for package in packages for name in package.__all__]
    return [each for each in found if inspect.isfunction(each)]


def test_no_public_function_asks_for_a_path_object():
    asking = [
        (function.__qualname__, name)
        for function in public_functions()
        for name, parameter in inspect.signature(function).parameters.items()
        if "Path" in str(parameter.annotation) and "str" not in str(parameter.annotation).lower()
    ]
    assert asking == []


@KINDS
@pytest.mark.parametrize("task", TASKS)
def test_models_are_saved_and_loaded(task, kind, tmp_path):
    save(task, kind(tmp_path / "model"))
    assert (tmp_path / "model" / "config.json").is_file()
    LOADERS[task](kind(tmp_path / "model"))


@KINDS
def test_weights_of_a_convnext(kind, tmp_path):
    theirs = timm.create_model("convnext_atto", num_classes=3)
    save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    ours = from_convnext(kind(tmp_path / "weights.safetensors"))
    assert torch.equal(ours.head.fc.weight, theirs.head.fc.weight)
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors is neither a file nor a model"):
        from_convnext(kind(tmp_path / "nothing.safetensors"))


@KINDS
def test_data(kind, tmp_path):
    pytest.importorskip("faster_coco_eval", reason="data for detection need convneur[detection]")
    classes(tmp_path / "photos")
    write_objects(tmp_path / "objects")
    write_pixels(tmp_path / "pixels")
    assert open_source(kind(tmp_path / "photos")).classes == ["a", "b"]
    assert len(open_objects(kind(tmp_path / "objects")).train)
    assert len(open_pixels(kind(tmp_path / "pixels")).train)


@KINDS
def test_large_images_and_embeddings(kind, tmp_path):
    model = create("convneur_m1", dims=(8, 12, 16, 24), depths=(1, 1, 1, 1), num_classes=3).eval()
    np.save(tmp_path / "image.npy", np.zeros((64, 64, 3), np.uint8))
    image, maps = kind(tmp_path / "image.npy"), kind(tmp_path / "maps")
    assert open_large(image).height == 64
    stream(model, image, kind(tmp_path / "out"), scratch=maps, progress=False)
    assert (tmp_path / "out" / "logits.npy").is_file()
    classes(tmp_path / "photos")
    save("classifier", tmp_path / "model")
    config = EmbedConfig(image_size=32, workers=0, device="cpu")
    embed(kind(tmp_path / "photos"), kind(tmp_path / "model"), kind(tmp_path / "features"), config)
    assert (tmp_path / "features" / "embed.json").is_file()


@KINDS
def test_reports_and_exported_files(kind, tmp_path):
    write_report(kind(tmp_path / "report.html"), "title", "summary", [], "note")
    assert (tmp_path / "report.html").is_file()
    for load in (load_exported, open_model):
        with pytest.raises(FileNotFoundError, match=r"there\.onnx does not exist"):
            load(kind(tmp_path / "there.onnx"))
    with pytest.raises(ValueError, match=r"model\.bin has no ending of an exported model"):
        export_model(create("convneur_m1"), kind(tmp_path / "model.bin"), None)
