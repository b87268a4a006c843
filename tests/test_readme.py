"""What the README shows runs."""

import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from statistics import mean

import pyarrow.parquet as pq
import pytest
import timm
from PIL import Image

import convneur
from convneur.bench import count_cost
from convneur.models import VARIANTS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_python_blocks_run_in_order(monkeypatch):
    blocks = [block for block in BLOCKS if "convneur.train(" not in block]
    assert len(blocks) == 3
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


SMALL = {
    "backbone": {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "memory_width": 16},
    "fit": {"accelerator": "cpu"},
    "epochs": 1,
    "workers": 0,
    "progress": False,
}


@pytest.mark.parametrize("task", ["classification", "instance", "segmentation"])
def test_the_block_on_training_runs_for_every_task_on_real_images(task, data_dir, tmp_path, monkeypatch):
    """As it stands, but that the model is small, learns for an epoch, and starts from nothing."""
    (block,) = [block for block in BLOCKS if "convneur.train(" in block]
    monkeypatch.chdir(tmp_path)
    picture, small = {"classification": few_photos, "instance": few_cells, "segmentation": few_streets}[task](data_dir)
    picture.save("cat.jpg")
    shutil.copytree("photos", "other_photos")
    train = convneur.train

    def small_run(data, recipe, weights, model, out):
        return train(data, task, out=out, **SMALL, **small)

    monkeypatch.setattr(convneur, "train", small_run, raising=False)
    names: dict = {"convneur": convneur}
    exec(block, names)
    assert names["run"].report.is_file()
    assert Path("report/report.html").is_file()
    assert Path("answer.png").is_file()
    assert names["vectors"].shape == (1, 32)
    assert len(names["maps"]) == 4


def few_photos(data_dir: Path) -> tuple[Image.Image, dict]:
    """Twelve photographs of two classes."""
    table = pq.read_table(data_dir / "imagenette" / "val.parquet", columns=["image", "label"])
    labels = table["label"].to_pylist()
    for label in (0, 3):
        for number in [place for place, each in enumerate(labels) if each == label][:6]:
            file = Path("photos", str(label), f"{number}.webp")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(table["image"][number].as_py())
    return Image.open(file).convert("RGB"), {"image_size": 64, "batch_size": 4}


def few_cells(data_dir: Path) -> tuple[Image.Image, dict]:
    """Six microscope images to learn from, and three to judge by."""
    Path("photos/images").mkdir(parents=True)
    for part, count in (("train", 6), ("val", 3)):
        found = json.loads((data_dir / "nuclei" / f"instances_{part}.json").read_text())
        found["images"] = found["images"][:count]
        ids = {each["id"] for each in found["images"]}
        found["annotations"] = [each for each in found["annotations"] if each["image_id"] in ids]
        Path(f"photos/instances_{part}.json").write_text(json.dumps(found))
        for each in found["images"]:
            shutil.copy(data_dir / "nuclei" / "images" / each["file_name"], "photos/images")
    heads = {"out_channels": 16, "mask_channels": 16, "boxes_per_image": 32, "proposals": 100, "detections": 20}
    picture = Image.open(next(Path("photos/images").iterdir())).convert("RGB")
    return picture, {"batch_size": 2, "min_size": 96, "max_size": 128, "heads": heads}


def few_streets(data_dir: Path) -> tuple[Image.Image, dict]:
    """Four streets to learn from, and two to judge by."""
    for part, count in (("train", 4), ("val", 2)):
        for file in sorted((data_dir / "camvid" / part / "images").iterdir())[:count]:
            for kind, name in (("images", file.name), ("masks", f"{file.stem}.png")):
                Path("photos", part, kind).mkdir(parents=True, exist_ok=True)
                shutil.copy(data_dir / "camvid" / part / kind / name, Path("photos", part, kind))
    shutil.copy(data_dir / "camvid" / "classes.txt", "photos")
    settings = {"batch_size": 2, "decoder_channels": 32, "augment": {"crop": (96, 96)}}
    return Image.open(file).convert("RGB"), settings


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

    assert set(re.findall(r"(?<!import )(?<!from )\bconvneur\s+(\w+)", README)) == set(verbs([]))


def test_linked_files_exist():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


@pytest.mark.slow
def test_example_runs():
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "train_loop.py"), "1"], capture_output=True, text=True, check=True
    )
    assert re.search(r"epoch 1: loss \d\.\d+, held-out accuracy 0\.\d+", done.stdout)


def test_versions_agree():
    for page in ("CITATION.cff", "CHANGELOG.md"):
        assert convneur.__version__ in (ROOT / page).read_text()


def test_table_of_what_the_memory_buys_says_what_was_measured():
    """Means over the seeds in the files that the pages are made from."""
    found = ROOT / "docs" / "results" / "memory"

    def accuracy(file: str, cell: str) -> str:
        runs = json.loads((found / file).read_text())["runs"]
        return f"{100 * mean(run['accuracy'] for run in runs if run['cell'] == cell):.1f} %"

    speed = json.loads((ROOT / "docs" / "results" / "speed" / "attention_inference.json").read_text())
    seconds = {(row["model"], row["size"]): row["seconds"] for row in speed["measurements"]}

    def times(form: str) -> str:
        found = [seconds[form, size] / seconds["convneur_m1/local", size] for size in (192, 512, 1024)]
        return f"{', '.join(f'{each:.2f}' for each in found)} x"

    for name, cell, legend, time in (
        ("**the memory**", "memory", "search_legend.json", times("convneur_m1")),
        ("self-attention", "self-attention", "legend.json", times("convneur_m1/attention")),
        ("a control that sees nothing global", "pointwise control", "legend.json", ""),
        ("no global branch", "local-only", "legend.json", "1 x"),
    ):
        (row,) = re.findall(rf"^\| {re.escape(name)} \| (.*?) \| (.*?) \|(.*)\|$", README, re.MULTILINE)
        assert row[0].partition(" (")[0] == accuracy(legend, cell)
        assert row[1] == accuracy("search_192px.json", cell)
        assert row[2].strip() == time


def test_the_picture_is_what_was_measured():
    models = json.loads((ROOT / "docs" / "results" / "mosaic.json").read_text())[0]["models"]
    ours, without = (models[name]["curve"][-1]["iou"] for name in ("convneur", "local-only"))
    assert f"IoU {ours:.2f} with memory, {without:.2f} without" in README
