"""An exported model says what the model says, and what it is for; a file is whole and right, or not there."""

from __future__ import annotations

import math
import zipfile

import pytest
import torch

from convneur.export import FORMATS, Agreement, Runtime, agreement, export_model, load_exported, require_agreement
from convneur.export.program import trace
from tests.export.builders import (
    EXPECTS,
    KINDS,
    LABELS,
    ONE_STAGE,
    QUICK,
    SIZES,
    Exported,
    exported,
    metadata_of,
    photos,
    small,
    worst,
)


@pytest.fixture(
    scope="module",
    params=[*QUICK, *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind not in QUICK)],
    ids=str,
)
def found(request, tmp_path_factory) -> Exported:
    whole = request.param == "keep-ops"  # others take long; the slow part of test_variants.py has two stages for them
    return exported(tmp_path_factory.mktemp(request.param), request.param, small(**{} if whole else ONE_STAGE))


def test_it_agrees_on_photographs_of_several_sizes_and_batches(found):
    batches = photos(found.model, SIZES)
    assert [tuple(batch.shape) for batch in batches] == [(n, 3, *size) for size in SIZES for n in (1, 4)]
    assert worst(found, SIZES) < 1e-4
    spread = found.model(batches[-1]).std(0).max()
    assert spread > 1e-2, "answers that do not differ from photograph to photograph would agree easily"


def test_it_agrees_at_the_smallest_size_and_refuses_what_is_smaller(found):
    low = found.runtime.pretrained_cfg["min_input_size"][1:]
    assert all(16 <= side <= 32 for side in low), "a token stands for 16 x 16 px, and one alone can be a special case"
    assert worst(found, [tuple(low)]) < 1e-4
    with pytest.raises(ValueError, match=rf"too small for this file; give at least {low[0]} x {low[1]}"):
        found.runtime(torch.zeros(1, 3, low[0], low[1] - 1))
    with pytest.raises(ValueError, match=r"give \(batch, 3, height, width\)"):
        found.runtime(torch.zeros(1, 1, 32, 32))


def test_labels_and_preprocessing_come_back(found):
    loaded = found.loaded
    assert loaded.classes == LABELS
    for key, value in EXPECTS.items():
        kept = loaded.config[key]
        assert (tuple(kept) if isinstance(kept, list) else kept) == value
    assert loaded.config["interpolation"] == found.model.pretrained_cfg["interpolation"]
    assert loaded.config["num_classes"] == len(LABELS)
    assert loaded.config["architecture"] == "convneur_m1"
    assert loaded.config["fixed_input_size"] is False


def test_nothing_lies_beside_it(found):
    made = sorted(file.name for file in found.file.parent.iterdir())
    assert made == (["model.bin", "model.xml"] if found.file.suffix == ".xml" else [found.file.name])


@pytest.mark.parametrize("what", ["cut", "other"])
def test_a_damaged_file_is_one_line(found, what, tmp_path):
    whole = found.file.read_bytes()
    for name in ("model.bin", found.file.name):
        if (found.file.parent / name).exists():
            (tmp_path / name).write_bytes((found.file.parent / name).read_bytes())
    bad = tmp_path / found.file.name
    bad.write_bytes({"cut": whole[: len(whole) // 2], "other": b"<html></html>"}[what])
    with pytest.raises(ValueError, match="cannot be loaded") as caught:
        load_exported(bad, trust=True)
    assert str(bad) in str(caught.value)
    assert "export it again" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["torch", "aoti"])
def test_damage_inside_an_archive_is_found_before_any_of_it_is_run(name, tmp_path):
    bad = tmp_path / f"model{FORMATS[name].suffix}"
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("model.so", b"machine code")
    bad.write_bytes(bad.read_bytes().replace(b"machine code", b"machine cod!"))
    with pytest.raises(ValueError, match=r"cannot be loaded \(its part model\.so is damaged\)"):
        load_exported(bad, trust=True)


def test_half_of_openvinos_two_files_is_one_line(tmp_path):
    (tmp_path / "model.xml").write_text("<net/>")
    with pytest.raises(FileNotFoundError, match=r"model\.bin does not exist; give a file that convneur export wrote"):
        load_exported(tmp_path / "model.xml")


@pytest.mark.parametrize(
    "changes",
    [
        {"preset": "published"},
        {"preset": "linear", "memory": {"chunk_size": 10_000}},
    ],  # 480 tokens: three chunks, and one
    ids=["published", "larger than any image so far"],
)
def test_a_memory_in_chunks_is_exported_for_one_size_only(tmp_path, changes):
    model = small(**changes, **ONE_STAGE)
    file = tmp_path / "model.pt2"
    metadata = metadata_of(model)
    metadata = type(metadata)({**metadata.config, "input_size": (3, 96, 80)}, LABELS)
    with pytest.raises(ValueError, match="dynamic=False") as caught:
        export_model(model, file, metadata)
    assert "\n" not in str(caught.value)
    assert not file.exists()
    export_model(model, file, metadata, dynamic=False)
    found = Exported(model, file, load_exported(file, trust=True))
    assert worst(found, [(96, 80)]) < 1e-4
    with pytest.raises(ValueError, match="32 x 32 px do not fit this file, which is for 96 x 80 px"):
        found.runtime(torch.zeros(1, 3, 32, 32))


def test_a_path_of_its_own_for_square_images_is_refused():
    class Square(torch.nn.Module):
        total_stride = 32

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) * (1 if x.shape[2] == x.shape[3] else 2)

    with pytest.raises(ValueError, match="--no-dynamic"):
        trace(Square().eval(), (3, 64, 64))


def test_a_wrong_export_is_not_kept_and_what_was_there_is(tmp_path):
    model, other = small(**ONE_STAGE), small(**ONE_STAGE)
    with torch.no_grad():
        other.head.fc.bias[1] += 1e-3
    images = photos(model, SIZES[:1])[0]
    old = tmp_path / "model.pt2"
    old.write_text("old")

    def check(runtime: Runtime) -> None:
        require_agreement(agreement(other, runtime, images))

    with pytest.raises(ValueError, match=r"differs from PyTorch by 1\.0e-03 at 32 x 32 px, batch 1"):
        export_model(model, old, metadata_of(model), keep_ops=True, check=check)
    assert list(tmp_path.iterdir()) == [old]
    assert old.read_text() == "old"


@pytest.mark.parametrize("difference", [math.nan, math.inf, 2e-4])
def test_what_is_no_agreement(difference):
    with pytest.raises(ValueError, match="it was not kept"):
        require_agreement(Agreement((32, 32), 1, difference, 1.0))
    require_agreement(Agreement((32, 32), 1, 9e-5, 1.0))


def test_labels_that_do_not_fit(tmp_path):
    model = small(num_classes=4)
    with pytest.raises(ValueError, match="5 labels do not fit 4 classes"):
        export_model(model, tmp_path / "model.pt2", metadata_of(model))


def test_names_that_are_no_names_of_files(tmp_path):
    model = small()
    with pytest.raises(ValueError, match=r"no ending of an exported model; give it one of \.onnx, "):
        export_model(model, tmp_path / "model.tflite", metadata_of(model))
    (tmp_path / "model.pt2").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder; give the name of a file"):
        export_model(model, tmp_path / "model.pt2", metadata_of(model))
