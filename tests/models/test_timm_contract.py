"""timm's contract for a model family, checked as its own test suite does, on all four variants."""

import copy

import pytest
import timm
import torch
from timm.models._features import FeatureGetterNet

from convneur.models import VARIANTS
from tests.models.builders import create, variants

NAMES = list(VARIANTS)
FIRST = variants("convneur_m1")


@pytest.mark.parametrize("name", NAMES)
def test_registered(name):
    assert timm.is_model(name)
    assert set(timm.list_models("convneur*")) == set(NAMES)
    assert timm.get_pretrained_cfg(name).input_size == (3, 224, 224)


@pytest.mark.parametrize("name", FIRST)
def test_forward_with_and_without_grad_checkpointing(name):
    model = create(name, num_classes=10).train()
    images = torch.randn(2, 3, 64, 64)
    plain = model(images)
    plain.square().sum().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.set_grad_checkpointing()
    again = model(images)
    again.square().sum().backward()
    torch.testing.assert_close(again, plain)
    torch.testing.assert_close([p.grad for p in model.parameters()], gradients)


@pytest.mark.parametrize(("name", "size"), [*((name, 96) for name in NAMES), ("convneur_m1", 128)])
def test_backward_reaches_every_parameter(name, size):
    model = timm.create_model(name, num_classes=42).train()
    out = model(torch.randn(2, 3, size, size))
    out.mean().backward()
    assert out.shape == (2, 42)
    assert not out.isnan().any()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", FIRST)
def test_a_gradient_that_is_not_zero_reaches_every_parameter_that_acts(name):
    model = create(name, num_classes=4).train()
    model(torch.randn(2, 3, 96, 96)).square().sum().backward()
    assert [n for n, p in model.named_parameters() if not p.grad.any()] == []


@pytest.mark.parametrize("name", FIRST)
def test_default_cfg_and_classifier_reset(name):
    model = create(name).eval()
    cfg, state_dict = model.default_cfg, model.state_dict()
    assert cfg["classifier"] + ".weight" in state_dict
    assert cfg["first_conv"] + ".weight" in state_dict
    images = torch.randn(1, *cfg["input_size"])
    with torch.inference_mode():
        assert model.forward_features(images).shape == (1, model.num_features, *cfg["pool_size"])
        model.reset_classifier(0)
        assert model(images).shape == (1, model.num_features)
        model.reset_classifier(0, "")
        assert model(images).shape == (1, model.num_features, *cfg["pool_size"])
        model.reset_classifier(7, "max")
        assert model(images).shape == (1, 7)
        pre_logits = model.forward_head(model.forward_features(images), pre_logits=True)
        assert pre_logits.shape == (1, model.head_hidden_size)
        assert model.get_classifier() is model.head.fc


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", ""])
def test_pooling_variants(pool):
    model = timm.create_model("convneur_m1", num_classes=5, global_pool=pool).eval()
    assert model(torch.randn(1, 3, 64, 64)).shape == ((1, 5, 2, 2) if pool == "" else (1, 5))


@pytest.mark.parametrize("name", FIRST)
def test_features_only_and_forward_intermediates(name):
    images = torch.randn(1, 3, 96, 96)
    features = create(name, features_only=True).eval()
    assert isinstance(features, FeatureGetterNet)
    assert features.feature_info.reduction() == [4, 8, 16, 32]
    assert features.feature_info.channels() == list(VARIANTS[name].dims)
    maps = features(images)
    for i, (channels, reduction) in enumerate(zip(features.feature_info.channels(), [4, 8, 16, 32], strict=True)):
        assert maps[i].shape == (1, channels, 96 // reduction, 96 // reduction)

    model = create(name).eval()
    last, maps = model.forward_intermediates(images)
    assert len(maps) == 4
    torch.testing.assert_close(last, model.forward_features(images))
    torch.testing.assert_close(last, maps[-1])
    two = model.forward_intermediates(images, indices=[0, 2], stop_early=True, intermediates_only=True)
    torch.testing.assert_close(two, [maps[0], maps[2]])

    pruned = copy.deepcopy(model)
    assert pruned.prune_intermediate_layers([1, 2]) == [1, 2]
    assert len(pruned.stages) == 3
    torch.testing.assert_close(pruned(images), maps[2])
    assert pruned.num_features == VARIANTS[name].dims[2]
    torch.testing.assert_close(
        pruned.forward_intermediates(images, [1, 2], intermediates_only=True), [maps[1], maps[2]]
    )


def test_features_only_takes_out_indices():
    model = timm.create_model("convneur_m1", features_only=True, out_indices=(1, 3)).eval()
    assert [m.shape[1] for m in model(torch.randn(1, 3, 64, 64))] == [80, 320]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated, and says so
@pytest.mark.parametrize("name", NAMES)
def test_torchscript_by_tracing(name):
    model = create(name).eval()
    traced = torch.jit.trace(model, torch.randn(1, 3, 64, 64))
    with torch.inference_mode():
        images = torch.randn(1, 3, 64, 64)
        torch.testing.assert_close(traced(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FIRST)
def test_fx_feature_extraction_gives_the_same_but_for_rounding(name):
    from timm.models import GraphExtractNet, get_graph_node_names

    model = create(name).eval()
    _, eval_nodes = get_graph_node_names(model)
    graph = GraphExtractNet(model, [eval_nodes[-1]]).eval()
    level = GraphExtractNet(model, ["stages.2"]).eval()
    images = torch.randn(2, 3, 128, 128)
    with torch.inference_mode():
        torch.testing.assert_close(graph(images), model(images), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(level(images), model.forward_intermediates(images)[1][2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_group_matcher_covers_every_parameter(name):
    from timm.models import group_parameters

    model = timm.create_model(name)
    groups = group_parameters(model, model.group_matcher())
    names = [n for group in groups.values() for n in group]
    assert sorted(names) == sorted(n for n, _ in model.named_parameters())


def test_drop_path_grows_linearly_and_drops_whole_samples():
    model = create("convneur_m1", drop_path_rate=0.5, num_classes=3)
    rates = [getattr(b.drop_path, "drop_prob", 0.0) for stage in model.stages for b in stage.blocks]
    assert rates == pytest.approx([0.5 * i / 11 for i in range(12)])
    images = torch.randn(2, 3, 64, 64)
    assert not torch.equal(model.train()(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_in_chans():
    assert timm.create_model("convneur_m1", in_chans=4, num_classes=2)(torch.randn(1, 4, 64, 64)).shape == (1, 2)


def test_timm_optimizer_factory_leaves_the_global_branch_without_decay():
    from timm.optim import create_optimizer_v2

    model = timm.create_model("convneur_m1")
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.9)
    decayed = {id(p) for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    named = dict(model.named_parameters())
    assert all(id(named[n]) not in decayed for n in model.no_weight_decay())
    assert id(named["stages.0.blocks.0.mlp.fc1.weight"]) in decayed
