"""Results of an ablation go on with settings that decide the same, and with no others."""

import json
from dataclasses import asdict, replace

import pytest

from convneur.lab.ablation import AblationConfig, _results
from convneur.lab.ablation_tables import Budget
from convneur_options.classification import RECIPES

CONFIG = AblationConfig("search", "photos", RECIPES["quick"], Budget(1, 0, (0,), (8, 16)))


def test_where_curves_go_is_free_and_the_size_is_not(tmp_path):
    path = tmp_path / "search.json"
    settings = _results(path, CONFIG)["settings"]
    earlier = json.loads(json.dumps(settings))
    earlier["recipe"]["fit"]["wandb"] = False
    path.write_text(json.dumps({"settings": earlier, "runs": [{"cell": "memory", "seed": 0}]}))
    fit = replace(CONFIG.recipe.fit, loggers=("csv",))
    assert len(_results(path, replace(CONFIG, recipe=replace(CONFIG.recipe, fit=fit)))["runs"]) == 1
    assert asdict(CONFIG)["recipe"]["image_size"] == 64
    with pytest.raises(ValueError, match="begun with other settings"):
        _results(path, replace(CONFIG, recipe=replace(CONFIG.recipe, image_size=96)))
