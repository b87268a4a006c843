"""Images of a run are known again wherever they are, and what was learned is told from what was held out."""

import shutil

import pytest
import torch
from PIL import Image

from convneur.data.contents import Contents, listed, not_learned, pick, place_of, read_contents, write_contents
from convneur.data.objects import open_objects
from convneur.data.semantic import open_pixels
from convneur.data.sources import open_source
from tests.data import formats
from tests.data.semantic.builders import write_scenes as write_pixels
from tests.tasks.detection.builders import write_scenes as write_objects


def classes(folder, count=6, seed=0):
    """Class folders; every image is of another size."""
    torch.manual_seed(seed)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = torch.randint(
                0, 255, (8 + number + 20 * seed, 9 + 2 * (name == "b"), 3), dtype=torch.uint8
            ).numpy()
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def table(folder):
    """Parquet files to train on and to judge by."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder.mkdir()
    for part, count in (("train", 6), ("val", 4)):
        rows = {"image": [bytes([i]) for i in range(count)], "label": [i % 2 for i in range(count)]}
        pq.write_table(pa.table(rows), folder / f"{part}.parquet")
    return folder


OPENED = {
    "classes": (classes, open_source),
    "table": (table, open_source),
    "objects": (write_objects, open_objects),
    "pixels": (write_pixels, open_pixels),
}


@pytest.mark.parametrize("kind", OPENED)
def test_data_is_the_same_however_it_is_spelled_and_wherever_it_is(kind, tmp_path, monkeypatch):
    make, open_ = OPENED[kind]
    data = make(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("data")
    kept = Contents.of(open_(str(data)), str(data))
    assert all(size > 0 for _, size in kept.train + kept.val)
    write_contents(tmp_path, kept)
    assert read_contents(tmp_path) == kept
    for spelled in ("data", "./data", "data/", "data/../data", "link", str(data)):
        assert Contents.of(open_(spelled), spelled) == kept, spelled
    shutil.move(data, tmp_path / "moved")
    now = Contents.of(open_("moved"), "moved")
    assert now.has_same_images(kept)
    assert now.root != kept.root == str(data)


@pytest.mark.parametrize("kind", OPENED)
@pytest.mark.parametrize("moved", [False, True])
def test_what_was_held_out_is_not_learned_from(kind, moved, tmp_path):
    make, open_ = OPENED[kind]
    data = make(tmp_path / "data")
    kept = Contents.of(open_(str(data)), str(data))
    if moved:
        data = shutil.move(data, tmp_path / "moved")
    source = open_(str(data))
    assert not_learned(source.train, str(data), kept) == []
    assert not_learned(source.val, str(data), kept) == list(range(len(source.val)))


@pytest.mark.parametrize("moved", [False, True])
def test_images_below_another_folder_are_known_again(moved, tmp_path):
    """A part of the data, and data with more around it; images that were added are new."""
    data = classes(tmp_path / "data" / "train").parent
    classes(tmp_path / "data" / "val", 2, seed=1)
    kept = Contents.of(open_source(str(data)), str(data))
    if moved:
        data = shutil.move(data, tmp_path / "moved")
    (data / "train" / "a" / "new.png").write_bytes(b"new")
    part = str(data / "train")
    every = open_source(part, None).val
    assert [every.name(number).rsplit("/", 1)[1] for number in not_learned(every, part, kept)] == ["new.png"]


def test_images_that_only_have_the_names_and_sizes_of_others_are_new(tmp_path):
    """As long as both can be looked at: frames of a camera that compresses nothing are all of one size."""
    data, other = (tmp_path / name for name in ("data", "other"))
    for folder, shade in ((data, 10), (other, 20)):
        for name in ("a", "b"):
            (folder / name).mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (8, 8), (shade, number, 0)).save(folder / name / f"{number}.bmp")
    kept = Contents.of(open_source(str(data), None), str(data))
    assert len(not_learned(open_source(str(other), None).val, str(other), kept)) == 6
    shutil.copytree(data, tmp_path / "copy" / "deeper")
    copy = str(tmp_path / "copy" / "deeper")
    assert not_learned(open_source(copy, None).val, copy, kept) == []


def test_tables_and_shards_of_other_names_are_known_by_their_bytes(tmp_path):
    data = table(tmp_path / "data")
    (tmp_path / "shards").mkdir()
    for part, count in (("train", 6), ("val", 4)):
        formats.tar(tmp_path / "shards" / f"{part}-0.tar", formats.samples([i % 2 for i in range(count)]))
    for folder, kind, end in ((data, "", "parquet"), (tmp_path / "shards", "wds:", "tar")):
        spec = f"{kind}{folder}"
        kept = Contents.of(open_source(spec), spec)
        (tmp_path / end).mkdir()
        for part, learned in (("train", True), ("val", False)):
            copy = tmp_path / end / f"val-0.{end}"
            shutil.copy(next(folder.glob(f"{part}*")), copy)
            given = f"{kind}{copy.parent}"
            judged = open_source(given, None).val
            every = list(range(len(judged.urls if end == "tar" else judged)))
            assert not_learned(judged, given, kept) == ([] if learned else every)


def test_files_whose_names_end_as_those_of_rows_do_are_files(tmp_path):
    """Sizes tell apart what has the same name in two folders that are not there any more to be compared."""
    data = classes(tmp_path / "data" / "plots row 1")
    for file in sorted(data.glob("*/*.png")):
        file.rename(file.with_name(f"plot.parquet row {file.name}"))
    kept = Contents.of(open_source(str(data), None), str(data))
    assert [size for _, size in kept.val] == [file.stat().st_size for file in sorted(data.glob("*/*.png"))]
    other = classes(tmp_path / "other" / "plots row 1", seed=1)
    for file in sorted(other.glob("*/*.png")):
        file.rename(file.with_name(f"plot.parquet row {file.name}"))
    learned = Contents(kept.root, kept.val, [])
    shutil.rmtree(data)
    assert len(not_learned(open_source(str(other), None).val, str(other), learned)) == 12


def test_digits_of_both_parts_are_told_apart():
    source = open_source("digits")
    kept = Contents.of(source, "digits")
    assert place_of("digits") == "digits"
    assert not set(kept.train) & set(kept.val)
    assert not_learned(source.val, "digits", kept) == list(range(len(source.val)))


@pytest.mark.parametrize("kind", ["objects", "pixels"])
def test_picked_images_keep_what_belongs_to_them(kind, tmp_path):
    make, open_ = OPENED[kind]
    images = open_(str(make(tmp_path / "data"))).train
    few = pick(images, [2, 0])
    assert [few.name(0), few.name(1)] == [images.name(2), images.name(0)]
    assert listed(few, str(tmp_path / "data")) == [listed(images, str(tmp_path / "data"))[n] for n in (2, 0)]
    if kind == "objects":
        assert (few.ids, few.objects) == ([images.ids[2], images.ids[0]], [images.objects[2], images.objects[0]])
    else:
        assert few.masks.name(0) == images.masks.name(2)


@pytest.mark.parametrize("content", [b"", b"nothing", b"\x1f\x8b\x08\x00"])
def test_a_damaged_list_is_one_line(content, tmp_path):
    (tmp_path / "images.json.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"images\.json\.gz is damaged") as caught:
        read_contents(tmp_path)
    assert "\n" not in str(caught.value)
