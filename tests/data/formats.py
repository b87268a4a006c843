"""Small data sets of every format, of parts with any names."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from convneur.data.objects import open_objects
from convneur.data.semantic import open_pixels
from convneur.data.sources import open_source
from tests.data import files

PNG = files.encoded(files.plain(size=(8, 8)), "PNG")


def write(path: Path, content: bytes | str = PNG) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def class_folders(root: Path, parts: Mapping[str, int]) -> None:
    for part, count in parts.items():
        for number in range(count):
            write(root / part / "ab"[number % 2] / f"{part}{number}.png")


def table(path: Path, labels: Sequence[Any], kind: Any = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [PNG] * len(labels), "label": pa.array(labels, kind)}), path)


def tables(root: Path, parts: Mapping[str, int]) -> None:
    for part, count in parts.items():
        table(root / f"{part}-00000.parquet", [number % 2 for number in range(count)])


def label_list(root: Path, parts: Mapping[str, int]) -> None:
    names = [(f"{part}{number}", "ab"[number % 2], part) for part, count in parts.items() for number in range(count)]
    for name, _, _ in names:
        write(root / "pictures" / f"{name}.png")
    write(root / "labels.csv", "\n".join(map(",".join, [("id", "label", "split"), *names])))


def tar(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))


def samples(labels: Sequence[Any]) -> list[tuple[str, bytes]]:
    pairs = ((f"{number:03d}.png", PNG) for number in range(len(labels)))
    texts = ((f"{number:03d}.cls", str(label).encode()) for number, label in enumerate(labels))
    return [each for pair in zip(pairs, texts, strict=True) for each in pair]


def shards(root: Path, parts: Mapping[str, int]) -> None:
    for part, count in parts.items():
        tar(root / f"{part}-000.tar", samples([number % 2 for number in range(count)]))


def yolo(root: Path, parts: Mapping[str, int]) -> None:
    write(root / "data.yaml", "names: [dog, cat]")
    for part, count in parts.items():
        for number in range(count):
            write(root / "images" / part / f"{number}.png")
            write(root / "labels" / part / f"{number}.txt", "1 0.5 0.5 0.5 0.5\n")


def coco_content(names: Sequence[str]) -> str:
    images = [{"id": n, "file_name": name, "width": 8, "height": 8} for n, name in enumerate(names)]
    box = {"bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0, "category_id": 1, "segmentation": [[1, 1, 5, 1, 5, 5]]}
    objects = [{"id": n, "image_id": n, **box} for n in range(len(names))]
    return json.dumps({"images": images, "annotations": objects, "categories": [{"id": 1, "name": "dog"}]})


def coco(root: Path, parts: Mapping[str, int]) -> None:
    for part, count in parts.items():
        names = [f"{part}{number}.png" for number in range(count)]
        for name in names:
            write(root / "images" / name)
        write(root / "annotations" / f"instances_{part}.json", coco_content(names))


def roboflow(root: Path, parts: Mapping[str, int]) -> None:
    for part, count in parts.items():
        names = [f"{part}{number}.png" for number in range(count)]
        for name in names:
            write(root / part / name)
        write(root / part / "_annotations.coco.json", coco_content(names))


def voc(root: Path, parts: Mapping[str, int]) -> None:
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
    for part, count in parts.items():
        names = [f"{part}{number}" for number in range(count)]
        write(root / "ImageSets" / "Main" / f"{part}.txt", "\n".join(names))
        for name in names:
            write(root / "JPEGImages" / f"{name}.jpg")
            xml = f"<a><filename>{name}.jpg</filename><size><width>8</width><height>8</height></size>"
            write(root / "Annotations" / f"{name}.xml", f"{xml}<object><name>dog</name>{box}</object></a>")


def mask(values: Any = ((0, 1),)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.resize(np.array(values, np.uint8), (8, 8))).save(buffer, "PNG")
    return buffer.getvalue()


def masks_in_parts(root: Path, parts: Mapping[str, int], content: bytes = mask()) -> None:
    write(root / "classes.txt", "ground\nroad\n")
    for part, count in parts.items():
        for number in range(count):
            write(root / part / "images" / f"{number}.png")
            write(root / part / "masks" / f"{number}.png", content)


def parts_in_masks(root: Path, parts: Mapping[str, int]) -> None:
    write(root / "classes.txt", "ground\nroad\n")
    for part, count in parts.items():
        for number in range(count):
            write(root / "images" / part / f"{number}.png")
            write(root / "masks" / part / f"{number}.png", mask())


# How each format is written, and opened: with a folder and a part.
FORMATS: dict[str, tuple[Callable[[Path, Mapping[str, int]], None], Callable[[Path, Any], Any]]] = {
    "class folders": (class_folders, lambda root, part: open_source(str(root), part=part)),
    "parquet": (tables, lambda root, part: open_source(str(root), part=part)),
    "CSV": (label_list, lambda root, part: open_source(str(root / "labels.csv"), part=part)),
    "shards": (shards, lambda root, part: open_source(f"wds:{root}", part=part)),
    "YOLO": (yolo, lambda root, part: open_objects(root, part)),
    "COCO": (coco, lambda root, part: open_objects(root, part)),
    "COCO beside images": (roboflow, lambda root, part: open_objects(root, part)),
    "VOC": (voc, lambda root, part: open_objects(root, part)),
    "masks in parts": (masks_in_parts, lambda root, part: open_pixels(root, part=part)),
    "parts in masks": (parts_in_masks, lambda root, part: open_pixels(root, part=part)),
}
