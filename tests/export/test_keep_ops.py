"""A portable ``.pt2`` needs PyTorch alone; one of ``keep_ops`` calls our operations, which choose as they run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

import convneur
from convneur import ops
from convneur.export import FORMATS, agreement, export_model, load_exported
from convneur.export.program import Traced, trace
from convneur.export.torch_file import write_program
from tests.export.builders import ONE_STAGE, SIZES, Exported, exported, metadata_of, photos, small

ROOT = Path(convneur.__file__).parents[1]
# Loads files without a package that is named convneur.
ELSEWHERE = """
import json, sys
sys.modules["convneur"] = None
import torch
portable, kept, images = sys.argv[1:]
found = {"logits": torch.export.load(portable).module()(torch.load(images)).tolist()}
try:
    torch.export.load(kept)
except RuntimeError as error:
    found["refused"] = str(error)
found["imported"] = [name for name in sys.modules if name.startswith("convneur.")]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Exported:
    return exported(tmp_path_factory.mktemp("kept"), "keep-ops", small(**ONE_STAGE))


@pytest.fixture(scope="module")
def portable(kept) -> Traced:
    return trace(kept.model, (3, 32, 32))


def called(program: torch.export.ExportedProgram) -> dict[str, int]:
    """How often a graph calls each operation of ours."""
    names = [str(node.target) for node in program.graph.nodes]
    return {each.name: count for each in ops.OPERATIONS if (count := names.count(f"convneur.{each.name}.default"))}


def test_its_graph_calls_operations_with_plain_weights_and_others_hold_references(kept, portable):
    program = torch.export.load(kept.file)
    assert called(program) == {"linear": 2, "global_branch": 1, "gated_residual": 1}
    assert called(portable.program) == {}
    for each in (program, portable.program):
        assert set(each.state_dict) == set(kept.model.state_dict())


def test_it_is_for_the_sizes_that_a_portable_file_is_for(kept, portable):
    assert kept.runtime.pretrained_cfg["min_input_size"][1:] == [*portable.smallest]
    programs = (torch.export.load(kept.file), portable.program)
    bounds = [sorted(map(str, program.range_constraints.values())) for program in programs]
    assert bounds[0] == bounds[1]


@pytest.mark.slow
def test_a_process_without_convneur_runs_a_portable_file_and_refuses_the_other(kept, portable, tmp_path):
    write_program(portable.program, tmp_path / "portable.pt2", {})
    images = photos(kept.model, SIZES)[3]
    torch.save(images, tmp_path / "images.pt")
    paths = map(str, (tmp_path / "portable.pt2", kept.file, tmp_path / "images.pt"))
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *paths], capture_output=True, text=True, timeout=300, check=True, cwd=tmp_path
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["imported"] == []
    torch.testing.assert_close(torch.tensor(found["logits"]), kept.model(images).detach(), rtol=0, atol=1e-4)
    assert "deserializing" in found["refused"]
    named = "torch.ops.convneur." in done.stderr or "OpOverload.global_branch" in found["refused"]  # the latter: 2.6
    assert named, "PyTorch logs, or says, which operation it misses"


def test_an_operation_that_is_not_here_is_one_line(kept, tmp_path):
    newer = tmp_path / "newer.pt2"
    with zipfile.ZipFile(kept.file) as whole, zipfile.ZipFile(newer, "w") as made:
        for name in whole.namelist():
            made.writestr(name, whole.read(name).replace(b"convneur.linear.", b"convneur.bilinear."))
    with pytest.raises(
        ValueError, match=r"it calls torch\.ops\.convneur\.bilinear, which ConvNeur .* not have"
    ) as caught:
        load_exported(newer, trust=True)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_process_with_two_copies_of_convneur_loads_it(kept, tmp_path):
    (tmp_path / "copy").symlink_to(ROOT)
    code = """
import sys
import convneur
for name in [name for name in sys.modules if name.split(".")[0] == "convneur"]:
    del sys.modules[name]
sys.path.insert(0, sys.argv[1])
from convneur.export import load_exported
import convneur, torch
assert convneur.__file__.startswith(sys.argv[1])
print(load_exported(sys.argv[2], trust=True).model(torch.zeros(1, 3, 32, 32)).shape[1])
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code, str(tmp_path / "copy"), str(kept.file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.stdout.strip() == "5", done.stderr


def test_what_computes_is_chosen_as_it_runs(kept, monkeypatch):
    images = photos(kept.model, SIZES)[3]
    for memory_format in (torch.contiguous_format, torch.channels_last):
        for on in (True, False):
            with ops.use_kernels(on):
                batch = images.contiguous(memory_format=memory_format)
                assert agreement(kept.model, kept.runtime, batch).difference < 1e-4
    reference = ops.global_branch.reference

    def louder(*args: object) -> list[Tensor]:
        return [2 * each for each in reference(*args)]

    monkeypatch.setattr(ops.global_branch, "reference", louder)
    with ops.use_kernels(False):
        found = kept.runtime(images)
    assert (found - kept.model(images)).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["onnx", "aoti", "openvino"])
def test_other_formats_have_no_operations_of_ours(name, tmp_path):
    model = small()
    with pytest.raises(ValueError, match="keep_ops=True is for format torch"):
        export_model(model, tmp_path / f"model{FORMATS[name].suffix}", metadata_of(model), keep_ops=True)
    assert not list(tmp_path.iterdir())


def test_a_file_names_no_folder_of_the_machine_that_made_it(kept):
    with zipfile.ZipFile(kept.file) as archive:
        assert not [name for name in archive.namelist() if str(ROOT).encode() in archive.read(name)]
