"""Pictures of several runs in one sheet, for the scripts beside this one."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image


def sheet(columns: Sequence[Sequence[Image.Image]], side: int) -> Image.Image:
    """Columns of pictures, each column of the same shapes, ``side`` pixels wide."""
    heights = [round(side * picture.height / picture.width) for picture in columns[0]]
    whole = Image.new("RGB", (side * len(columns), sum(heights)), "white")
    for column, each in enumerate(columns):
        for row, picture in enumerate(each):
            whole.paste(picture.resize((side, heights[row])), (side * column, sum(heights[:row])))
    return whole
