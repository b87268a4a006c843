"""Checkpoints with one fault each."""

import pytest

from convneur.training.checkpoints import COMMENT
from tests.hostile.mutations import MUTATIONS, mutated, run_bounded
from tests.training import small

SCRIPT = """
import io, sys
from pathlib import Path
import torch
from convneur.printing import Console
from convneur.training.checkpoints import load_checkpoint
from convneur.training.fit import resume_from

good, faulty = Path(sys.argv[1]), Path(sys.argv[2])

def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, (list, tuple)) else a == b

expected, used = load_checkpoint(good), 0
for fault in sorted(faulty.iterdir()):
    run = fault / "checkpoints"
    console = Console(file=io.StringIO(), width=500)
    path = resume_from(fault, console)
    told = console.file.getvalue()
    assert told.count("\\n") == 1 and "weights_only" not in told, (fault.name, told)
    if path.name == good.name:
        used += 1
        assert same(expected, load_checkpoint(path)), fault.name
    else:
        assert "is damaged and was passed over: " in told, (fault.name, told)
        load_checkpoint(path)
print(used)
"""


@pytest.mark.slow
@pytest.mark.parametrize("digest", [True, False])
def test_a_checkpoint_with_a_fault_is_passed_over_or_its_numbers_are_right(digest, tmp_path):
    """One with a digest is never read. Without one, as earlier versions wrote them, nothing depends on some bytes."""
    small.run(tmp_path / "run")
    before, newest = sorted((tmp_path / "run" / "checkpoints").iterdir())
    content = newest.read_bytes()
    if not digest:
        content = content[: -COMMENT - 2] + b"\0\0"
    directory, unchanged = content.index(b"PK\1\2"), 0
    for seed in range(MUTATIONS):
        folder = tmp_path / "faulty" / str(seed) / "checkpoints"
        folder.mkdir(parents=True)
        begin = directory if seed // 6 % 2 else 0  # half of the faults are there, though it is a small part of the file
        fault = content[:begin] + mutated(content[begin:], seed)
        unchanged += fault == content
        (folder / newest.name).write_bytes(fault)
        (folder / before.name).write_bytes(before.read_bytes())
    used = int(run_bounded(SCRIPT, newest, tmp_path / "faulty", seconds=300))
    assert used == unchanged if digest else used < MUTATIONS // 4
