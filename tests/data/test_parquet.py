"""Parquet files are read where they lie: in order a few rows at a time, in any order from a copy on disk."""

import multiprocessing
import pickle
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from convneur.data.formats.images import Subset
from convneur.data.formats.parquet import AT_A_TIME, ParquetImages, read_in_any_order
from convneur.data.module import ImageData
from convneur.data.sources import open_source
from convneur.data.transforms import Preprocessing
from convneur.data.unlabelled import open_unlabelled
from convneur_options.augment import AugmentConfig
from tests.data import files

ROWS = 500  # of which the first files have several row groups, the last one
TO = Preprocessing((3, 8, 8), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def content(row: int) -> bytes:
    return bytes(np.random.default_rng(row).integers(0, 256, 1000 + row, dtype=np.uint8))


@pytest.fixture
def tables(tmp_path):
    """Two files of ROWS rows; every seventh image is a file beside them."""
    (tmp_path / "images").mkdir()
    for row in range(0, 2 * ROWS, 7):
        (tmp_path / "images" / f"{row}.png").write_bytes(content(row))
    for number, group in enumerate((130, ROWS)):
        rows = range(number * ROWS, (number + 1) * ROWS)
        images = [
            {"bytes": content(row) if row % 7 else None, "path": None if row % 7 else f"images/{row}.png"}
            for row in rows
        ]
        table = pa.table({"image": images, "label": [row % 2 for row in rows]})
        pq.write_table(table, tmp_path / f"train-{number}.parquet", row_group_size=group)
    return tmp_path


@pytest.mark.parametrize("copied", [False, True])
def test_rows_are_the_same_in_any_order(tables, copied):
    images = ParquetImages(tables, ["train-0.parquet", "train-1.parquet"])
    assert len(images) == 2 * ROWS
    some = Subset(Subset(images, range(100, 900)), range(0, 800, 3))
    if copied:
        read_in_any_order(some)
        read_in_any_order(Subset(images, range(0, 2 * ROWS, 5)))  # more of them
    for index in (0, 2 * ROWS - 1, *np.random.default_rng(0).permutation(2 * ROWS)[:60].tolist()):
        assert images.read(index) == content(index)
    assert [some.read(index) for index in range(len(some))] == [content(row) for row in range(100, 900, 3)]


def test_embedding_reads_what_training_reads(tables):
    trained, embedded = open_source(str(tables), None).train, open_unlabelled(str(tables))
    for index in (0, 129, 130, ROWS - 1, ROWS, 2 * ROWS - 1):
        assert trained.read(index) == embedded.read(index) == content(index)
        file, row = divmod(index, ROWS)
        assert trained.name(index) == f"{tables}/train-{file}.parquet row {row}"
        assert embedded.name(index) == f"train-{file}.parquet:{row}"
    for first, stop in ((0, 2 * ROWS), (128, 135), (ROWS - 1, ROWS + 1), (7, 7)):
        assert embedded.known_labels(first, stop) == [row % 2 for row in range(first, stop)]


def test_a_table_is_not_held_in_memory(tmp_path):
    """Neither opened, nor while it is copied, nor read: 40 MB in one row group."""
    noise = np.random.default_rng(0).bytes(2000 + 20_000)
    images = [noise[row : row + 2000] for row in range(20_000)]
    pq.write_table(pa.table({"image": images, "label": [row % 2 for row in range(20_000)]}), tmp_path / "a.parquet")
    held = pa.total_allocated_bytes()
    source = open_source(str(tmp_path / "a.parquet"))
    assert pa.total_allocated_bytes() - held < 4e6
    read_in_any_order(source.train)
    for index in np.random.default_rng(0).permutation(len(source.train)).tolist():
        assert source.train.read(index) == images[source.train.indices[index]]
    assert pa.total_allocated_bytes() - held < 4e6
    for index in range(len(source.val)):
        assert source.val.read(index) == images[source.val.indices[index]]
        assert pa.total_allocated_bytes() - held < 12e6


@pytest.fixture(params=["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def start(request):
    """How processes begin, by default."""
    before = multiprocessing.get_start_method()
    if request.param not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {request.param}")
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


def test_workers_read_the_copy(tmp_path, start):
    images = [files.encoded(files.plain((row, 255 - row, 0), (12, 12)), "PNG") for row in range(200)]
    pq.write_table(pa.table({"image": images, "label": [row % 2 for row in range(200)]}), tmp_path / "a.parquet")
    source = open_source(str(tmp_path / "a.parquet"))
    plain, shared = (
        list(ImageData(source, TO, AugmentConfig(), 16, seed=1, workers=workers).train_dataloader())
        for workers in (0, 2)
    )
    assert len(plain) == 10
    for one, other in zip(plain, shared, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


def test_who_reads_in_order_takes_no_copy_along(tables):
    images = ParquetImages(tables, ["train-0.parquet"])
    assert images.read(AT_A_TIME + 1) == content(AT_A_TIME + 1)
    assert len(pickle.dumps(images)) < 20_000
    assert pickle.loads(pickle.dumps(images)).read(3) == content(3)


class FullDisk:
    def write(self, content: bytes) -> None:
        raise OSError(28, "No space left on device")


def test_no_room_for_the_copy_says_the_fix(tables, monkeypatch):
    images = ParquetImages(tables, ["train-0.parquet"])
    monkeypatch.setattr(tempfile, "TemporaryFile", FullDisk)
    with pytest.raises(
        OSError, match=r"\Aimages cannot be copied to /.* \(No space left on device\); make room, or set"
    ):
        read_in_any_order(images)


def test_a_damaged_row_group_is_named(tables):
    path = tables / "train-1.parquet"
    start = pq.read_metadata(path).row_group(0).column(0).data_page_offset
    whole = bytearray(path.read_bytes())
    whole[start : start + 40] = bytes(40)
    path.write_bytes(whole)
    images = ParquetImages(tables, ["train-0.parquet", "train-1.parquet"])
    assert images.read(ROWS - 1) == content(ROWS - 1)
    for read in (lambda: images.read(ROWS + 3), lambda: read_in_any_order(images)):
        with pytest.raises(OSError, match=r"\Arow group 0 of .*train-1.parquet is damaged \([^\n]*\)\Z"):
            read()
    assert images.read(5) == content(5)
