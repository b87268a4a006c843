"""Several runs in one table and one sheet of pictures, for the scripts beside this one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image


def asked(doc: str | None, pictures: list[int]) -> tuple[argparse.Namespace, dict[str, Path]]:
    """What the command line asks for, and the folders of its runs by name."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="NAME=FOLDER")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True, help="path without ending")
    parser.add_argument("--pictures", type=int, nargs="*", default=pictures, help="numbers of held-out images")
    given = parser.parse_args()
    return given, {name: Path(folder) for name, folder in (each.split("=", 1) for each in given.runs)}


def keep(rows: list[dict[str, Any]], out: Path) -> None:
    """Write what the runs say of themselves."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(rows, indent=2) + "\n")


def sheet(columns: Sequence[Sequence[Image.Image]], side: int) -> Image.Image:
    """Columns of pictures, each column of the same shapes, ``side`` pixels wide."""
    heights = [round(side * picture.height / picture.width) for picture in columns[0]]
    whole = Image.new("RGB", (side * len(columns), sum(heights)), "white")
    for column, each in enumerate(columns):
        for row, picture in enumerate(each):
            whole.paste(picture.resize((side, heights[row])), (side * column, sum(heights[:row])))
    return whole
