"""The adapter for OpenMMLab, in mmengine's own registries."""

import importlib.util
import re
import tempfile
from pathlib import Path

import pytest
import torch
from filelock import FileLock

import convneur
from convneur.models import save_model

# The first import of yapf, which mmengine takes along, writes a file that another worker would read half of.
with FileLock(Path(tempfile.gettempdir()) / "convneur-tests-mmengine.lock"):
    pytest.importorskip("mmengine", reason="the package mmengine is not installed")

from mmengine.config import Config
from mmengine.registry import MODELS, Registry

from convneur.integrations import openmmlab

NAMES = ("cascade_mask_rcnn_1x_coco", "semantic_fpn_ade20k", "upernet_ade20k")
# mmdet's and mmseg's registries are children of mmengine's, like this one; importing them needs mmcv's operators.
CHILD = Registry("model", parent=MODELS, scope="child", locations=[])


def test_it_is_built_from_a_config_and_gives_maps_that_learn():
    model = CHILD.build({"type": "ConvNeur", "variant": "convneur_m1", "out_indices": (1, 3), "drop_path_rate": 0.1})
    maps = model(torch.randn(1, 3, 64, 96))
    assert isinstance(maps, tuple)
    assert [tuple(each.shape) for each in maps] == [(1, 80, 8, 12), (1, 320, 2, 3)]
    sum(each.square().mean() for each in maps).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(("frozen_stages", "free"), [(-1, {"stem", "0", "1", "2", "3"}), (1, {"1", "2", "3"})])
def test_stages_are_frozen_as_openmmlab_counts(frozen_stages, free):
    model = MODELS.build({"type": "ConvNeur", "frozen_stages": frozen_stages})
    found = {
        re.sub(r"body\.model\.(stages\.)?", "", n).split(".")[0] for n, p in model.named_parameters() if p.requires_grad
    }
    assert found == free


def test_weights_of_a_classifier_are_taken(tmp_path):
    classifier = convneur.create_model("convneur_m1", num_classes=3)
    save_model(classifier, tmp_path / "model", {"num_classes": 3})
    model = MODELS.build({"type": "ConvNeur", "weights": str(tmp_path)})
    given = classifier.state_dict()
    for name, value in model.body.model.state_dict().items():
        assert torch.equal(value, given[name]), name


def test_unknown_variants_and_configs_are_named():
    with pytest.raises(ValueError, match="convneur_m4"):
        openmmlab.ConvNeurBackbone("convneur_m9")
    with pytest.raises(ValueError, match="upernet_ade20k"):
        openmmlab.config("upernet")


@pytest.mark.parametrize("name", NAMES)
def test_heads_of_a_config_fit_its_backbone(name, tmp_path):
    """The part of a config that is ours; what it stands on comes with mmdet or mmseg."""
    own = re.sub(r"^_base_ = .*$", "", openmmlab.config(name).read_text(), flags=re.MULTILINE)
    (tmp_path / "own.py").write_text(own)
    content = Config.fromfile(tmp_path / "own.py")
    assert list(content.custom_imports.imports) == ["convneur.integrations.openmmlab"]
    settings = {key: value for key, value in content.model.backbone.items() if key != "_delete_"}
    channels = [each.shape[1] for each in CHILD.build(settings)(torch.randn(1, 3, 64, 64))]
    takes_maps = content.model.get("neck") or content.model.decode_head
    assert list(takes_maps.in_channels) == channels
    if "auxiliary_head" in content.model:
        assert content.model.auxiliary_head.in_channels == channels[2]
    slow = next(iter(content.optim_wrapper.paramwise_cfg.custom_keys))
    model = convneur.create_model("convneur_m1")
    assert {n for n, _ in model.named_parameters() if slow in n} == set(model.no_weight_decay())


@pytest.mark.parametrize("name", NAMES)
def test_configs_stand_on_those_of_mmdet_and_mmseg(name):
    package = "mmdet" if name.startswith("cascade") else "mmseg"
    for needed in (package, "pkg_resources"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"the package {needed} is not installed")
    content = Config.fromfile(openmmlab.config(name))
    assert content.model.backbone.type == "ConvNeur"
    assert "depth" not in content.model.backbone
    assert content.optim_wrapper.optimizer.type == "AdamW"
