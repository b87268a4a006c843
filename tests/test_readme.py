"""What the README shows runs."""

import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import timm

import convneur
from convneur.bench import count_cost
from convneur.models import VARIANTS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_python_blocks_run_in_order(monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 4
    create = timm.create_model

    def offline(name, pretrained=False, **kwargs):
        return create(name, pretrained=False, **kwargs)  # the block on ConvNeXt would load weights from a hub

    monkeypatch.setattr("convneur.models.convert.timm.create_model", offline)
    names: dict = {}
    for block in blocks:
        exec(block, names)  # the point of this test
    assert names["logits"].shape == (1, 10)
    assert [level.shape[1] for level in names["levels"]] == [64, 128, 256, 512]
    assert names["more"].shape == (2, 60, 80)


def test_python_blocks_of_the_guide_run():
    mosaics, detection = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "guide.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(detection, names)
    assert set(names["found"][0]) == {"boxes", "labels", "scores", "masks"}
    exec(mosaics, names)
    assert names["images"].shape == (16, 3, 256, 256)
    assert names["answers"].shape == (16, 8, 8)


def test_python_block_of_the_page_on_looking_inside_runs():
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "explain.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(block, names)
    assert names["with_memory"].shape == names["without"].shape == (224, 200)
    assert len(names["answers"].flat) == 4


def test_variant_table_says_what_is_so():
    number = r"([\d.]+)"
    rows = re.findall(
        rf"\| `(convneur_m\d)` \| ([\d, ]+) \| {number} M \| {number} G \| (\S+), {number} M, {number} G \|", README
    )
    assert [row[0] for row in rows] == list(VARIANTS)
    for name, widths, params, macs, baseline, baseline_params, baseline_macs in rows:
        assert tuple(map(int, widths.split(", "))) == VARIANTS[name].dims
        assert baseline.lower().replace("-", "_") == VARIANTS[name].baseline
        for told, placement in (((params, macs), "per_stage"), ((baseline_params, baseline_macs), "none")):
            cost = count_cost(partial(convneur.create_model, name, global_placement=placement))
            assert (f"{cost.params / 1e6:.2f}", f"{cost.macs / 1e9:.2f}") == told


def test_every_command_is_known():
    from convneur_command.main import verbs

    assert set(re.findall(r"`convneur (\w+)", README)) == set(verbs([]))


def test_linked_files_exist():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_example_runs():
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "train_loop.py"), "1"], capture_output=True, text=True, check=True
    )
    assert re.search(r"epoch 1: loss \d\.\d+, held-out accuracy 0\.\d+", done.stdout)


def test_versions_agree():
    for page in ("CITATION.cff", "CHANGELOG.md"):
        assert convneur.__version__ in (ROOT / page).read_text()
