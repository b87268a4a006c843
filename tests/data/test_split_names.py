"""Which names mean which part: the same in every format."""

import pytest

from convneur.data.sources import open_source
from convneur.data.split_names import part_of
from tests.data import formats

SPELLINGS = [
    ("train", "val", "test"),
    ("Train", "valid", "Test"),
    ("Training", "Validation", "Testing"),
    ("TRAIN", "VAL", "TEST"),
    ("training_set", "dev", "testing"),
    ("train2017", "val2017", "test2017"),
]


def counts(source):
    return len(source.train), len(source.val)


@pytest.mark.parametrize("kind", formats.FORMATS)
@pytest.mark.parametrize("names", SPELLINGS, ids="-".join)
def test_val_is_judged_by_and_test_when_it_is_asked_for(kind, names, tmp_path):
    write, opened = formats.FORMATS[kind]
    write(tmp_path, dict(zip(names, (10, 4, 6), strict=True)))
    val, test = opened(tmp_path, "val"), opened(tmp_path, "test")
    assert (counts(val), counts(test)) == ((10, 4), (10, 6))
    where = {"shards": ("val", "test")}.get(kind, names[1:])
    assert where[0] in val.held_out
    assert where[1] in test.held_out


@pytest.mark.parametrize("kind", formats.FORMATS)
def test_without_validation_a_share_of_train_is_held_out_and_test_is_kept(kind, tmp_path):
    write, opened = formats.FORMATS[kind]
    write(tmp_path, {"Training": 10, "Testing": 6})
    if kind == "shards":  # which are read in a row
        with pytest.raises(FileNotFoundError, match=r"no val-.*test-\*\.tar is for eval --part test"):
            opened(tmp_path, "val")
        return
    source = opened(tmp_path, "val")
    assert counts(source) == (8, 2)
    assert {source.train.name(n) for n in range(8)}.isdisjoint(source.val.name(n) for n in range(2))
    assert "20 %" in source.held_out
    assert "is kept for eval --part test" in source.held_out
    assert len(opened(tmp_path, "test").val) == 6


@pytest.mark.parametrize("kind", formats.FORMATS)
@pytest.mark.parametrize("names", [("train", "val", "validation"), ("train", "Training", "val")], ids="-".join)
def test_two_names_for_a_part_are_refused(kind, names, tmp_path):
    write, opened = formats.FORMATS[kind]
    write(tmp_path, dict.fromkeys(names, 4))
    twice = names[1:] if names[1] == "val" else names[:2]
    with pytest.raises(ValueError, match="the part") as caught:
        opened(tmp_path, "val")
    assert all(name in str(caught.value) for name in twice)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", formats.FORMATS)
def test_a_part_that_is_not_there_is_refused(kind, tmp_path):
    write, opened = formats.FORMATS[kind]
    write(tmp_path, {"train": 10, "val": 4})
    with pytest.raises((ValueError, FileNotFoundError), match="test"):
        opened(tmp_path, "test")


def test_digits_have_no_test_part():
    with pytest.raises(ValueError, match=r"digits has no part test \(it has train, val\); leave --part out"):
        open_source("digits", part="test")


def test_hugging_face_splits_follow_the_rule(tmp_path):
    datasets = pytest.importorskip("datasets")

    def rows(labels):
        columns = {"image": [{"bytes": formats.PNG, "path": None}] * len(labels), "label": labels}
        return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())

    splits = {"train": rows([0, 1] * 5), "validation": rows([0, 1]), "test": rows([0, 1, 1]), "extra": rows([0])}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "all"))
    source = open_source(f"hf:{tmp_path / 'all'}")
    assert (counts(source), source.held_out) == ((10, 2), "split validation")
    assert "not used: extra" in source.notes[0]
    assert counts(open_source(f"hf:{tmp_path / 'all'}", part="test")) == (10, 3)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        *(("training", "train"), ("TrainSet", "train"), ("train_images", "train"), ("valid", "val")),
        *(("dev", "val"), ("TestData", "test"), ("test-2", "test"), ("trainval", None), ("test tube", None)),
        *(("training wheels", None), ("cat", None), ("validé", None), ("bullet train", None)),
    ],
)
def test_names_as_a_whole(name, part):
    assert part_of(name) == part


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        (("Train/a", "Train/b", "cat", "dog"), "has Train, which look like parts, beside cat"),
        (("train", "car", "bus"), "has train, which look like parts, beside bus"),
        (("train/a", "train/b", "train/test"), "has test, which looks like a part and not like a class"),
        (("cat/train", "cat/test", "dog/train"), "cat has the folder test, and parts stand above the classes"),
        (("seg_train", "seg_test"), "has seg_test and seg_train, which look like parts"),
        (("set/train/a", "set/train/b", "set/test/a"), "if test, train are the classes or parts, give"),
        (("val/a", "val/b"), "has no part train"),
    ],
)
def test_parts_are_never_taken_for_classes(folders, told, tmp_path):
    for folder in folders:
        for number in range(3):
            formats.write(tmp_path / folder / f"{number}.png")
    with pytest.raises(ValueError, match=told) as caught:
        open_source(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_other_folders_beside_parts_are_no_classes(tmp_path):
    formats.class_folders(tmp_path, {"train": 10, "test": 4})
    formats.write(tmp_path / "annotations" / "list.csv", "a,b")
    formats.write(tmp_path / "set" / "train" / "a" / "copy.png")
    formats.write(tmp_path / "__MACOSX" / "train" / "._a.png")
    assert open_source(str(tmp_path)).classes == ["a", "b"]


def test_a_part_alone_can_be_judged_by(tmp_path):
    formats.class_folders(tmp_path, {"test": 4})
    assert len(open_source(str(tmp_path), None, part="test").val) == 4


def test_files_of_no_part_are_to_train_on_or_named(tmp_path):
    formats.tables(tmp_path, {"photos": 10, "test": 4})
    assert counts(open_source(str(tmp_path), part="test")) == (10, 4)
    formats.tables(tmp_path, {"train": 6})
    source = open_source(str(tmp_path), part="test")
    assert counts(source) == (6, 4)
    assert "not used, as their names say no part; the first: photos-00000.parquet" in source.notes[0]
