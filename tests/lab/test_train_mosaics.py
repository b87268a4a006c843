"""Training on mosaics of photographs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from convneur.data.sources import open_source
from convneur.lab import train_mosaics as recipes
from convneur.lab.photo_mosaics import Tiles, tiles_of
from convneur.printing import Console
from convneur_options.backbone import BackboneConfig
from convneur_options.classification import MOSAIC
from convneur_options.fit import FitConfig
from convneur_options.mosaic import MosaicConfig

CONSOLE = Console(quiet=True)
SMALL = replace(
    MOSAIC,
    epochs=1,
    batch_size=4,
    backbone=BackboneConfig(dims=(4, 8, 8), depths=(1, 1, 1)),
    fit=FitConfig(accelerator="cpu"),
)


@pytest.fixture(scope="module")
def tiles() -> tuple[Tiles, Tiles]:
    source = open_source("digits")
    return tiles_of(source.train, 16), tiles_of(source.val, 16)


def test_a_run_repeats_and_tells_accuracy_by_distance(tiles, monkeypatch):
    monkeypatch.setattr(recipes, "STEPS_PER_EPOCH", 3)
    monkeypatch.setattr(recipes, "JUDGED", 32)
    runs = [
        recipes.train_on_mosaics(SMALL, MosaicConfig("like", 64, 16, distance=2), tiles, seed, "run", CONSOLE)
        for seed in (0, 0, 1)
    ]
    assert [row["epoch"] for row in runs[0]] == [1]
    assert {"loss", "accuracy", "accuracy_2", "accuracy_3"} <= runs[0][0].keys()
    same = [[{key: row[key] for key in ("loss", "accuracy", "accuracy_3")} for row in run] for run in runs]
    assert same[0] == same[1] != same[2]


def test_a_tile_smaller_than_a_place_of_the_map_is_refused(tiles):
    coarse = replace(SMALL, backbone=BackboneConfig(dims=(4, 8, 8, 8), depths=(1, 1, 1, 1)))
    with pytest.raises(ValueError, match="no multiple of the model's stride of 32 px"):
        recipes.train_on_mosaics(coarse, MosaicConfig("like", 64, 16), tiles, 0, "run", CONSOLE)
