"""Photographs and small models for tests of features."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import timm
import torch

from convneur.data.decode import decode_image
from convneur.data.photos import SAMPLES, sample_image
from convneur.data.transforms import Preprocessing, eval_transform
from convneur.models import save_model
from tests.data import files


def photos(count: int, side: int = 72) -> list[bytes]:
    """JPEG files: squares of scikit-learn's photographs, no two alike."""
    random = np.random.default_rng(0)
    samples = [sample_image(name) for name in SAMPLES]
    found = []
    for number in range(count):
        sample = samples[number % len(samples)]
        left, top = (int(random.integers(extent - side)) for extent in sample.size)
        found.append(files.encoded(sample.crop((left, top, left + side, top + side)), "JPEG", quality=90))
    return found


def photo_folder(root: Path, count: int) -> Path:
    """Photographs in two folders; the names do not sort as they are numbered."""
    for number, content in enumerate(photos(count)):
        folder = root / ("sea" if number % 3 else "land/near")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(content)
    return root


def spoil(root: Path) -> list[str]:
    """Put files among the photographs that cannot be read, and return their identities."""
    for name, make in files.UNREADABLE.items():
        (root / "sea" / name).write_bytes(make())
    return sorted(f"sea/{name}" for name in files.UNREADABLE)


def tables(root: Path, count: int, **columns: list) -> Path:
    """Two parquet files as Hugging Face writes them, in row groups of three."""
    root.mkdir(parents=True)
    images = [{"bytes": content, "path": None} for content in photos(count)]
    table = pa.table({"image": images, **{name: values[:count] for name, values in columns.items()}})
    pq.write_table(table.slice(0, count // 2), root / "a.parquet", row_group_size=3)
    pq.write_table(table.slice(count // 2), root / "b.parquet", row_group_size=3)
    return root


def shards(root: Path, count: int) -> Path:
    """Two shards of WebDataset, every second image with a label."""
    root.mkdir(parents=True)
    every = photos(count)
    for shard in range(2):
        with tarfile.open(root / f"{shard}.tar", "w") as tar:
            for number in range(shard * count // 2, (shard + 1) * count // 2):
                members = {f"p/{number:03d}.jpg": every[number]}
                if number % 2:
                    members[f"p/{number:03d}.cls"] = str(number).encode()
                for name, content in members.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return root


def saved_model(folder: Path, seed: int = 0) -> Path:
    """A small convolutional model of timm with drawn weights."""
    torch.manual_seed(seed)
    save_model(timm.create_model("test_convnext", num_classes=3), folder, {})
    return folder


def read(out: Path) -> pa.Table:
    """All parts, in order."""
    return pq.read_table(sorted(out.glob("part-*.parquet")))


def vectors(out: Path) -> torch.Tensor:
    """The embeddings (N, D) of all parts."""
    column = read(out)["embedding"].combine_chunks()
    return torch.from_numpy(column.flatten().to_numpy(zero_copy_only=False).copy()).reshape(len(column), -1)


def stacked(contents: list[bytes], preprocessing: Preprocessing) -> torch.Tensor:
    """What a model is given (N, C, H, W)."""
    transform = eval_transform(preprocessing)
    return torch.stack([transform(decode_image(content)) for content in contents])
