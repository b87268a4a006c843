"""A part of a source keeps the classes in proportion, and touches nothing it is to leave alone."""

import numpy as np
import pytest

from convneur.data.sources import open_source
from convneur.data.subsets import fewer, hold_out
from tests.data.test_sources import make_shards


def names(images):
    return [images.name(i) for i in range(len(images))]


def test_what_is_held_out_comes_from_the_training_images():
    whole = open_source("digits")
    part = hold_out(whole, 0.25, seed=1)
    assert sorted(names(part.train) + names(part.val)) == sorted(names(whole.train))
    share = np.bincount(part.val.labels) / np.bincount(whole.train.labels)
    assert np.all(abs(share - 0.25) < 0.01)
    assert names(hold_out(whole, 0.25, seed=1).val) == names(part.val) != names(hold_out(whole, 0.25, seed=2).val)
    assert hold_out(part, 0.5, seed=1) is part, "these were held out already"


@pytest.mark.parametrize("first_hold_out", [False, True])
def test_fewer_images_are_some_of_each_class(first_hold_out):
    source = open_source("digits")
    source = hold_out(source, 0.2, seed=0) if first_hold_out else source
    part = fewer(source, 100, seed=3)
    assert np.all(abs(np.bincount(part.train.labels) - 10) <= 1)
    assert set(names(part.train)) <= set(names(source.train))
    assert names(part.val) == names(source.val)
    if part.split is not None:
        original = open_source("digits").train
        assert [original.name(i) for i in part.split.train] == names(part.train)
    assert fewer(source, 10**6, seed=3) is source


def test_shards_cannot_be_picked_from(tmp_path):
    shards = open_source(f"wds:{make_shards(tmp_path, {'train': 8, 'val': 4})}")
    for part in (lambda: hold_out(shards, 0.2, 0), lambda: fewer(shards, 4, 0)):
        with pytest.raises(ValueError, match="shards are read in a row; leave it out"):
            part()
