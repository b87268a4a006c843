"""One argument, whatever kind of data people have."""

import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from convneur.data.decode import decode_image
from convneur.data.formats.images import Images
from convneur.data.objects import open_objects
from convneur.data.semantic import open_pixels
from convneur.data.sources import open_source
from convneur.data.split import stratified_split
from tests.data import files, formats


def colour(images: Images, index: int) -> str:
    """Which class a picture shows."""
    red, _, blue = np.asarray(decode_image(images.read(index))).mean((0, 1))
    return "red" if red > blue else "blue"


def assert_right(source, train: int, val: int):
    assert (len(source.train), len(source.val)) == (train, val)
    for images in (source.train, source.val):
        for index in range(len(images)):
            assert source.classes[images.labels[index]] == colour(images, index), images.name(index)


def make_folder(root, counts):
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            shade = files.RED if name.startswith("red") else files.BLUE
            (root / name / f"{i}.jpg").write_bytes(files.encoded(files.plain(shade), "JPEG"))
    return root


def make_table(path, counts, strings=False):
    names = sorted(counts)
    labels = [name for name in names for _ in range(counts[name])]
    images = [files.encoded(files.plain(files.RED if name == "red" else files.BLUE), "PNG") for name in labels]
    pq.write_table(pa.table({"image": images, "label": labels if strings else [names.index(x) for x in labels]}), path)


def test_class_folders_are_split_by_class(tmp_path):
    make_folder(tmp_path, {"red": 10, "blue": 20, ".cache": 1})
    (tmp_path / "red" / "notes.txt").write_text("no image")
    source = open_source(str(tmp_path))
    assert_right(source, 24, 6)
    assert source.classes == ["blue", "red"]
    assert sorted(source.val.labels) == [0] * 4 + [1] * 2
    assert source.split.val == open_source(str(tmp_path)).split.val != open_source(str(tmp_path), seed=1).split.val
    assert {source.train.name(i) for i in range(24)}.isdisjoint(source.val.name(i) for i in range(6))


@pytest.mark.parametrize("val", ["val", "validation", "Valid"])
def test_folders_that_are_split_already(tmp_path, val):
    make_folder(tmp_path / "train", {"red": 4, "blue": 6})
    make_folder(tmp_path / val, {"red": 2})
    source = open_source(str(tmp_path))
    assert_right(source, 10, 2)
    assert source.split is None


def test_train_folder_alone_is_split(tmp_path):
    make_folder(tmp_path / "train", {"red": 5, "blue": 5})
    assert_right(open_source(str(tmp_path), val_share=0.4), 6, 4)


def test_all_images_may_be_judged_by_unless_some_are_held_out(tmp_path):
    make_folder(tmp_path / "whole", {"red": 1, "blue": 6})
    assert_right(open_source(str(tmp_path / "whole"), None), 7, 7)
    make_table(tmp_path / "rows.parquet", {"red": 4, "blue": 3}, strings=True)
    assert_right(open_source(str(tmp_path / "rows.parquet"), None), 7, 7)
    make_folder(tmp_path / "split" / "train", {"red": 4, "blue": 6})
    make_folder(tmp_path / "split" / "val", {"red": 2})
    assert_right(open_source(str(tmp_path / "split"), None), 10, 2)


@pytest.mark.parametrize("strings", [False, True])
def test_parquet(tmp_path, strings):
    make_table(tmp_path / "train-00.parquet", {"red": 4, "blue": 3}, strings)
    make_table(tmp_path / "train-01.parquet", {"red": 2, "blue": 1}, strings)
    if not strings:
        (tmp_path / "classes.txt").write_text("blue\nred\n")
    source = open_source(str(tmp_path / "train-00.parquet"), val_share=0.3)
    assert_right(source, 5, 2)
    make_table(tmp_path / "test-00.parquet", {"red": 2, "blue": 2}, strings)
    assert_right(open_source(str(tmp_path)), 8, 2)
    assert_right(open_source(str(tmp_path), part="test"), 10, 4)
    make_table(tmp_path / "validation-00.parquet", {"red": 1, "blue": 2}, strings)
    assert_right(open_source(str(tmp_path)), 10, 3)


def test_hugging_face_local_copy(tmp_path):
    datasets = pytest.importorskip("datasets")
    make_folder(tmp_path / "files", {"red": 6, "blue": 6})
    kept = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "files"), cache_dir=str(tmp_path / "cache"))
    kept.save_to_disk(str(tmp_path / "copy"))
    assert_right(open_source(f"hf:{tmp_path / 'copy'}", val_share=0.5), 6, 6)
    kept["train"].train_test_split(test_size=4, seed=0).save_to_disk(str(tmp_path / "split"))
    assert_right(open_source(f"hf:{tmp_path / 'split'}"), 6, 2)
    assert_right(open_source(f"hf:{tmp_path / 'split'}", part="test"), 8, 4)


def test_digits_need_no_files():
    source = open_source("digits")
    assert (len(source.train), len(source.val), len(source.classes)) == (1437, 360, 10)
    assert decode_image(source.train.read(0)).size == (8, 8)


def test_what_is_wrong_is_one_line_that_says_the_fix(tmp_path):
    make_folder(tmp_path / "one", {"red": 2})
    make_folder(tmp_path / "hole", {"red": 2, "blue": 2, "white": 0})
    make_folder(tmp_path / "more" / "train", {"red": 2, "blue": 2})
    make_folder(tmp_path / "more" / "val", {"red": 2, "redder": 2})
    make_folder(tmp_path / "single", {"red": 1, "blue": 2})
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing else")
    pq.write_table(pa.table({"picture": [b"x"], "label": [0]}), tmp_path / "other.parquet")
    pq.write_table(pa.table({"image": [b"x", b"y"], "label": [0, -1]}), tmp_path / "negative.parquet")
    (tmp_path / "list.txt").write_text("a,b")
    for place, file in (("tars", "train-0.tar"), ("saved", "dataset_dict.json")):
        (tmp_path / place).mkdir()
        (tmp_path / place / file).touch()
    (tmp_path / "saved" / "train").mkdir()
    for spec, kind, message in [
        (tmp_path / "absent", FileNotFoundError, "does not exist; give a folder"),
        (tmp_path / "empty", ValueError, "no class folders"),
        (tmp_path / "tars", ValueError, "its shards are read as wds:.*tars$"),
        (tmp_path / "saved", ValueError, "are read as hf:.*saved$"),
        (tmp_path / "one", ValueError, "only one class, 'red'"),
        (tmp_path / "hole", ValueError, "white has no images; add some"),
        (tmp_path / "more", ValueError, "classes that .* has not: redder"),
        (tmp_path / "single", ValueError, "single image"),
        (tmp_path / "broken.parquet", ValueError, "no parquet file"),
        (tmp_path / "other.parquet", ValueError, "no column 'image'; it has picture, label"),
        (tmp_path / "negative.parquet", ValueError, "only one class, '0'"),
        (tmp_path / "list.txt", ValueError, "a .txt file; give a folder"),
        (f"wds:{tmp_path / 'empty'}", FileNotFoundError, "no train-"),
        (f"hf:{tmp_path / 'absent'}", FileNotFoundError, "could not be loaded"),
    ]:
        with pytest.raises(kind, match=message) as caught:
            open_source(str(spec))
        assert "\n" not in str(caught.value)


def test_split_is_stratified_and_never_takes_all():
    labels = [0] * 100 + [1] * 10 + [2] * 2
    split = stratified_split(labels, 0.2, seed=3)
    assert [sum(labels[i] == c for i in split.val) for c in range(3)] == [20, 2, 1]
    assert sorted(split.train + split.val) == list(range(112))
    assert [sum(labels[i] == c for i in stratified_split(labels, 0.99, 0).train) for c in range(3)] == [1, 1, 1]
    with pytest.raises(ValueError, match="between 0 and 1"):
        stratified_split(labels, 1.0, 0)


def make_shards(root, counts):
    """Shards of 10 samples each, labels 0 (blue) and 1 (red) in turn."""
    wds = pytest.importorskip("webdataset")
    root.mkdir(exist_ok=True)
    (root / "classes.txt").write_text("blue\nred\n")
    for split, count in counts.items():
        with wds.ShardWriter(str(root / f"{split}-%03d.tar"), maxcount=10, verbose=0) as writer:
            for i in range(count):
                image = files.encoded(files.plain(files.RED if i % 2 else files.BLUE), "PNG")
                writer.write({"__key__": f"{split}{i:05d}", "png": image, "cls": i % 2})
    return root


def test_shards(tmp_path):
    make_shards(tmp_path, {"train": 35, "val": 12})
    source = open_source(f"wds:{tmp_path}")
    assert (len(source.train), len(source.val), source.classes) == (35, 12, ["blue", "red"])
    described = {
        "train": [str(tmp_path / "train-{000..003}.tar")],
        "train_samples": 35,
        "val": [str(tmp_path / "val-{000..001}.tar")],
        "val_samples": 12,
        "classes": ["blue", "red"],
    }
    (tmp_path / "set.json").write_text(json.dumps(described))
    assert open_source(f"wds:{tmp_path / 'set.json'}") == source
    (tmp_path / "set.json").write_text("{}")
    with pytest.raises(ValueError, match="it needs train, train_samples"):
        open_source(f"wds:{tmp_path / 'set.json'}")
    whole = (tmp_path / "train-000.tar").read_bytes()
    (tmp_path / "train-000.tar").write_bytes(whole[:5000])
    with pytest.raises(ValueError, match="no whole shard"):
        open_source(f"wds:{tmp_path}")
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("part", [None, "val", "test"])
@pytest.mark.parametrize("kind", ["folder", "parquet", "shards"])
def test_images_of_one_class_are_enough_to_judge_by_and_not_to_learn_from(kind, part, tmp_path):
    make_folder(tmp_path / "folder" / (part or ""), {"red": 2})
    make_table(tmp_path / f"{part or 'all'}.parquet", {"red": 2}, strings=True)
    formats.tar(tmp_path / f"{part or 'train'}-0.tar", formats.samples([0, 0]))
    spec = {"folder": tmp_path / "folder", "parquet": tmp_path, "shards": f"wds:{tmp_path}"}[kind]
    judged = "test" if part == "test" else "val"
    source = open_source(str(spec), val_share=None, part=judged)
    assert len(source.val) == 2
    assert len(source.classes) == 1
    with pytest.raises((ValueError, FileNotFoundError)):
        open_source(str(spec))


@pytest.mark.parametrize("share", [None, 0.5])
@pytest.mark.parametrize("part", ["val", "test"])
@pytest.mark.parametrize("kind", ["class_folders", "tables", "label_list", "shards", "described", "masks_in_parts"])
def test_what_nothing_is_learned_from_needs_no_images_to_train_on(kind, part, share, tmp_path):
    """Whether a share is asked for or not: there is nothing to take it from."""
    write = {"described": formats.shards}.get(kind) or getattr(formats, kind)
    write(tmp_path, {part: 6})
    spec = str(tmp_path)
    if kind == "described":
        told = {part: [str(tmp_path / f"{part}-000.tar")], f"{part}_samples": 6, "classes": ["a", "b"]}
        (tmp_path / "set.json").write_text(json.dumps(told))
        spec = f"wds:{tmp_path / 'set.json'}"
    elif kind == "label_list":
        spec = str(tmp_path / "labels.csv")
    elif kind == "shards":
        spec = f"wds:{tmp_path}"
    open_it = open_pixels if kind == "masks_in_parts" else open_source
    source = open_it(spec, share, part=part, learns=False)
    assert len(source.val) == 6
    assert source.notes == []
    with pytest.raises((ValueError, FileNotFoundError), match="train") as refused:
        open_it(spec)
    assert "\n" not in str(refused.value)


OPENERS = {"classification": open_source, "detection": open_objects, "segmentation": open_pixels}
LAYOUTS = [
    (["train/images/a.png", "train/masks/a.png", "val/images/b.png", "val/masks/b.png", "classes.txt"], "segmentation"),
    (["images/a.png", "masks/a.png", "classes.txt"], "segmentation"),
    (["images/a.png", "labels/a.png", "classes.txt"], "segmentation"),
    (["leftImg8bit/train/a.png", "gtFine/train/a.png"], "segmentation"),
    (["images/a.png", "instances_train.json"], "detection"),
    (["images/train/a.png", "labels/train/a.txt", "data.yaml"], "detection"),
    (["images/train/a.png", "labels/train/a.txt", "data.yaml", "classes.txt"], "detection"),
    (["JPEGImages/a.png", "Annotations/a.xml", "ImageSets/Main/train.txt"], "detection"),
    (["cat/a.png", "dog/a.png"], "classification"),
    (["train/cat/a.png", "train/dog/a.png", "val/cat/b.png", "val/dog/b.png"], "classification"),
    (["train-0.parquet"], "classification"),
]


@pytest.mark.parametrize("asked", OPENERS)
@pytest.mark.parametrize(("files", "task"), LAYOUTS, ids=[files[-1] + str(len(files)) for files, _ in LAYOUTS])
def test_data_of_another_task_is_told_by_its_name(files, task, asked, tmp_path):
    """Images and masks would otherwise be two classes; what is amiss with data of the task itself is told as it is."""
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            Image.new("RGB", (8, 8)).save(path)
        else:
            path.write_text("a\nb\n" if path.suffix == ".txt" else "{}")
    told = f"holds images for {task}, and no .*; convneur train {task} learns from it"
    for part in ("val", "test"):
        try:
            OPENERS[asked](tmp_path, part=part)
            why = ""
        except (ValueError, FileNotFoundError) as error:
            why = str(error)
        assert bool(re.search(told, why)) == (task != asked), why


def test_data_that_is_no_folder_is_told_by_the_name_of_its_task(tmp_path):
    described = tmp_path / "data.yaml"
    described.write_text("{}")
    for data, task in (("digits", "classification"), ("hf:x", "classification"), (described, "detection")):
        for asked in set(OPENERS) - {task}:
            with pytest.raises(ValueError, match=f"{data} holds images for {task}"):
                OPENERS[asked](data)


def test_data_of_no_task_is_told_what_it_lacks(tmp_path):
    for names in (["img", "mask"], ["train", "val"], []):
        for name in names:
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("RGB", (8, 8)).save(tmp_path / name / "a.png")
        for asked in ("detection", "segmentation"):
            with pytest.raises((ValueError, FileNotFoundError), match=r"kind|classes") as refused:
                OPENERS[asked](tmp_path)
            assert "holds images for" not in str(refused.value)
