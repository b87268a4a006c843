"""The pages of the site: what they show runs, what they name is there, and they can be read."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import convneur
import convneur_command.main
from tests.commands_page import PAGE as COMMANDS
from tests.commands_page import page as commands_page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
GENERATED = {COMMANDS, DOCS / "files.md", DOCS / "options.md"}
TRAINS = {"quickstart", "photographs", "objects", "pixels", "features"}
SLOW = TRAINS | {"export"}
SERVED = {"app"}  # its block asks a server: tests/app


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def python_of(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands_of(page: Path) -> list[list[str]]:
    """Lines that begin with convneur, without comments, those that end with a backslash joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    blocks += "\n".join(re.findall(r"^    (convneur .*)$", text, re.MULTILINE))
    lines = [line for line in blocks.splitlines() if line.startswith("convneur ") and "$(" not in line]
    return [shlex.split(line, comments=True)[1:] for line in lines]


WITH_PYTHON = [page for page in PAGES if python_of(page) and page.stem not in SERVED]
WITH_COMMANDS = [page for page in [*PAGES, ROOT / "README.md"] if commands_of(page)]


@pytest.mark.parametrize("page", [page for page in PAGES if page not in GENERATED], ids=name_of)
def test_a_page_can_be_read(page):
    text = page.read_text(encoding="utf-8")
    assert len(text.split()) <= 1600
    assert not re.search(r"@[A-Z]+@|TODO", text)
    assert [
        line for line in text.splitlines() if len(line) > 130 and not line.startswith("|") and "](" not in line
    ] == []


def test_the_page_of_the_command_line_is_what_is_so():
    assert COMMANDS.read_text(encoding="utf-8") == commands_page(), "python -m tests.commands_page"


def test_the_site_shows_every_page():
    shown = set(re.findall(r'"([\w/]+\.md)"', (ROOT / "zensical.toml").read_text(encoding="utf-8")))
    assert shown == {page.relative_to(DOCS).as_posix() for page in PAGES}


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_commands_are_understood(page, monkeypatch):
    monkeypatch.setattr(convneur_command.main, "_guarded", lambda run: 0)
    for arguments in commands_of(page):
        if "--help" not in arguments:
            assert convneur_command.main.main(arguments) == 0, arguments


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if page.stem in SLOW else ()) for page in WITH_PYTHON],
    ids=name_of,
)
def test_python_runs_in_order(page, tmp_path, monkeypatch):
    """As it stands, from the top of the page, in a folder with a few images of each kind."""
    monkeypatch.chdir(tmp_path)
    if page.stem in TRAINS:
        make_photos(Path("photos"))
        make_cells(Path("cells"))
        make_street(Path("street"))
    if page.stem == "features":
        convneur.train("photos", epochs=1, out="runs/photos", progress=False)
    names: dict = {}
    rule = convneur.ops.memory.write
    torch.manual_seed(0)
    try:
        for block in python_of(page):
            exec(block, names)  # the point of this test
    finally:
        convneur.ops.memory.write = rule


def digit(number: int, side: int) -> Image.Image:
    pixels = (load_digits().images[number] * 15).astype(np.uint8)
    return Image.fromarray(pixels).convert("RGB").resize((side, side))


def make_photos(folder: Path) -> None:
    for name, of in (("cat", 0), ("dog", 1)):
        (folder / name).mkdir(parents=True)
        for place, number in enumerate(np.flatnonzero(load_digits().target == of)[:20]):
            digit(int(number), 64).save(folder / name / f"{place}.png")


def make_cells(folder: Path) -> None:
    """A digit somewhere on each image; its square is the object."""
    (folder / "images").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for part, numbers in (("train", range(6)), ("val", range(6, 8))):
        images, found = [], []
        for number in numbers:
            picture = Image.new("RGB", (160, 128))
            x, y = int(draw.integers(0, 100)), int(draw.integers(0, 70))
            picture.paste(digit(number, 48), (x, y))
            picture.save(folder / "images" / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": 160, "height": 128})
            outline = [x, y, x + 48, y, x + 48, y + 48, x, y + 48]
            box = {"bbox": [x, y, 48, 48], "area": 48 * 48, "segmentation": [outline], "iscrowd": 0}
            found.append({"id": number + 1, "image_id": number, "category_id": 1} | box)
        content = {"images": images, "annotations": found, "categories": [{"id": 1, "name": "digit"}]}
        (folder / f"instances_{part}.json").write_text(json.dumps(content))


def make_street(folder: Path) -> None:
    """A digit on each image; the mask says where it is bright."""
    for part, numbers in (("train", range(4)), ("val", range(2))):
        for kind in ("images", "masks"):
            (folder / part / kind).mkdir(parents=True)
        for number in numbers:
            picture = digit(number, 96)
            picture.save(folder / part / "images" / f"{number}.png")
            bright = (np.asarray(picture.convert("L")) > 100).astype(np.uint8)
            Image.fromarray(bright).save(folder / part / "masks" / f"{number}.png")
    (folder / "classes.txt").write_text("background\nink\n")
