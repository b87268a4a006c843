"""Damaged files of other runtimes: right answers, or one clear line."""

from __future__ import annotations

import pytest

from tests.hostile.exported import write_onnx, write_openvino
from tests.hostile.mutations import MUTATIONS, run_bounded

SCRIPT = """
import sys
from pathlib import Path
import torch
from convneur.export import load_exported
from tests.hostile.mutations import mutated

whole, copy, count = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]), int(sys.argv[3])
images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
answered = refused = 0
for seed in range(count):
    print("seed", seed, file=sys.stderr)  # the last one tells which mutation ended the process
    copy.write_bytes(mutated(whole, seed))
    try:
        runtime = load_exported(copy).model
        answer = runtime(images)
    except (ValueError, OSError) as error:
        assert str(error).strip() and chr(10) not in str(error), repr(error)
        refused += 1
    else:
        assert answer.is_floating_point() and answer.shape == (2, runtime.pretrained_cfg["num_classes"])
        answered += 1
print(answered, refused)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "count"), [(".onnx", MUTATIONS), (".xml", MUTATIONS // 4)])
def test_mutations_of_exported_files(suffix, count, tmp_path):
    (tmp_path / "copy").mkdir()
    file = {".onnx": write_onnx, ".xml": write_openvino}[suffix](tmp_path / f"model{suffix}")
    if suffix == ".xml":
        (tmp_path / "copy" / "model.bin").write_bytes((tmp_path / "model.bin").read_bytes())
    answered, refused = map(int, run_bounded(SCRIPT, file, tmp_path / "copy" / f"model{suffix}", str(count)).split())
    assert answered + refused == count
    assert answered, "some mutations are in names and the like, and change nothing"
    assert refused > count // 4
