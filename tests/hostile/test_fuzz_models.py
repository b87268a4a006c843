"""Damaged and hostile models: the right answer, or one line that says what is wrong; never another answer."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.hostile.models import TASKS, save
from tests.hostile.mutations import MUTATIONS, mutated, run_bounded

pytestmark = pytest.mark.slow

# Reads each mutation that is listed; prints how many were refused and how many gave the answers of the whole model.
READ = """
import sys, json, shutil
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.hostile.models import LOADERS, answer
task, whole, mutants, name = sys.argv[1:]
whole, mutants = Path(whole), Path(mutants)
right = answer(task, LOADERS[task](whole))
refused = loaded = 0
for mutant in sorted(mutants.iterdir()):
    shutil.copyfile(mutant, whole / name)
    try:
        given = answer(task, LOADERS[task](whole))
    except (ValueError, OSError) as error:
        assert str(error) and "\\n" not in str(error), (mutant, error)
        refused += 1
        continue
    if given.shape != right.shape or not torch.equal(given, right):
        if name.endswith(".safetensors"):  # a bit of a weight that is still a number cannot be told
            assert torch.isfinite(given).all() or (given.abs() > 1e30).any() or given.isnan().any(), mutant
        else:
            raise AssertionError(f"{mutant}: other answers; {mutant.read_text()[:3000]}")
    loaded += 1
print(refused, loaded)
"""


def read(task: str, folder: Path, mutants: list[bytes], name: str) -> tuple[int, int]:
    listed = folder.parent / "mutants"
    listed.mkdir()
    for number, content in enumerate(mutants):
        (listed / f"{number:03}").write_bytes(content)
    refused, loaded = run_bounded(READ, task, folder, listed, name, seconds=300).split()
    return int(refused), int(loaded)


@pytest.fixture(params=TASKS)
def task(request) -> str:
    return request.param


def test_safetensors(task, tmp_path):
    folder = save(task, tmp_path / "model")
    content = (folder / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    # Half of them in the header, which is small beside the weights
    mutants = [
        mutated(content[:header], seed) + content[header:] if seed % 2 else mutated(content, seed)
        for seed in range(MUTATIONS)
    ]
    refused, loaded = read(task, folder, mutants, "model.safetensors")
    assert refused + loaded == MUTATIONS
    assert refused > MUTATIONS / 3


def test_text_of_config(task, tmp_path):
    folder = save(task, tmp_path / "model")
    content = (folder / "config.json").read_bytes()
    refused, _ = read(task, folder, [mutated(content, seed) for seed in range(MUTATIONS)], "config.json")
    assert refused > MUTATIONS / 3


def test_values_of_config(task, tmp_path):
    folder = save(task, tmp_path / "model")
    refused, _ = read(task, folder, replaced(folder / "config.json"), "config.json")
    assert refused > MUTATIONS / 3


def test_settings_of_a_run(tmp_path):
    """What eval and --resume read of run.json."""
    kept = {
        "data": "digits",
        "seed": 3,
        "val_share": 0.25,
        "max_pixels": 10**8,
        "recipe": {"epochs": 2, "optim": {"betas": [0.9, 0.99]}},
    }
    path = tmp_path / "run.json"
    path.write_text(json.dumps(kept))
    content = path.read_bytes()
    folder = tmp_path / "mutants"
    folder.mkdir()
    for number, each in enumerate([*(mutated(content, seed) for seed in range(MUTATIONS)), *replaced(path)]):
        (folder / f"{number:03}").write_bytes(each)
    script = """
import sys, json, shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from convneur.tasks.run_data import run_data_of
from convneur.data.sources import open_source
from convneur.printing import Console
from convneur.training.run_folder import claim
@dataclass
class Config:
    data: str = "digits"
    seed: int = 3
    val_share: float = 0.25
    max_megapixels: float = 100.0
    recipe: dict = field(default_factory=lambda: {"epochs": 2, "optim": {"betas": [0.9, 0.99]}})
run = Path(sys.argv[1])
source = open_source("digits")
refused = 0
for mutant in sorted(Path(sys.argv[2]).iterdir()):
    for read in (lambda: run_data_of(run), lambda: claim(asdict(Config()), source, source, run, True, Console())):
        shutil.copyfile(mutant, run / "run.json")
        try:
            read()
        except (ValueError, OSError) as error:
            assert str(error), mutant
            refused += 1
print(refused)
"""
    assert int(run_bounded(script, tmp_path, folder, seconds=120)) > MUTATIONS


def test_metadata_of_an_exported_file():
    script = """
import json, random, sys
sys.path.insert(0, sys.argv[1])
from convneur.export import ExportMetadata
from tests.hostile.mutations import MUTATIONS, mutated
from tests.hostile.test_fuzz_models import VALUES
config = {"architecture": "convneur_m1", "num_classes": 2, "input_size": [3, 32, 32], "mean": [0.1, 0.2, 0.3],
          "std": [1, 1, 1], "interpolation": "bicubic", "crop_pct": 0.9, "fixed_input_size": False,
          "min_input_size": [3, 32, 32]}
whole = ExportMetadata(config, ["a", "b"]).as_text()
assert ExportMetadata.from_text(whole).labels == ["a", "b"]
refused = 0
for seed in range(MUTATIONS):
    key = sorted(set(whole) - {"made_by", "architecture"})[seed % 4]
    for text in (mutated(whole[key].encode(), seed).decode("utf-8", "replace"), json.dumps(VALUES[seed % len(VALUES)])):
        try:
            found = ExportMetadata.from_text(whole | {key: text})
        except ValueError as error:
            assert str(error) and "\\n" not in str(error)
            refused += 1
            continue
        assert found.labels is None or len(found.labels) == found.config["num_classes"]
        assert len(found.config["mean"]) == len(found.config["std"]) and max(found.config["input_size"]) <= 4096
print(refused)
"""
    assert int(run_bounded(script, Path(__file__).parents[2])) > MUTATIONS


VALUES = [None, 7, -1, 0.5, 10**18, 10**400, True, "", "x", "/dev/null", [], [1], [[["a"]]], {}, {"a": {"b": [None]}},
          ["x"] * 1000, "x" * 100_000]  # fmt: skip


def replaced(file: Path) -> list[bytes]:
    """Files of JSON in which one value is another, or a name is, or a list is longer."""
    made = []
    places = list(_places(json.loads(file.read_text())))
    draw = random.Random(0)
    for number in range(MUTATIONS):
        content = json.loads(file.read_text())
        place = places[number % len(places)]
        inside = content
        for name in place[:-1]:
            inside = inside[name]
        inside[place[-1]] = draw.choice(VALUES)
        made.append(json.dumps(content).encode())
    return made


def _places(value: object, place: tuple = ()):
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in inside:
        yield (*place, name)
        yield from _places(each, (*place, name))
