"""What is seen inside is what was computed, by a computation of its own; and the model is left as it was."""

import copy
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convneur import ops
from convneur.explain import ablate_gates, gate_maps, inspect, receptive_fields
from convneur.explain.grad_cam import grad_cam
from convneur.models import ConvNeur
from convneur.ops.gated_residual import upsample
from tests.memory.builders import by_the_oracle
from tests.models.builders import create

SMALL = {"dims": (6, 8), "depths": (1, 2), "token_strides": (2, 1), "memory_width": 8, "num_classes": 5}
MEMORIES = [{"heads": 2}]
MEMORIES += [
    {"state": state, "read": read, "chunk_size": chunk, "anchor": anchor, "heads": 2, "max_step": 0.02}
    for state in ("linear", "mlp")
    for read, chunk, anchor in (
        ("global", None, "initial"),
        ("global", 4, "previous"),
        ("causal", 4, "initial"),
        ("causal", 4, "previous"),
    )
]


def stirred(**kwargs) -> ConvNeur:
    """A model none of whose weights is what a new one has."""
    model = create("convneur_m1", **SMALL | kwargs).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def rms(x: Tensor, gain: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain


def expected_of_first_stage(model: ConvNeur, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gate, unwritten gate and surprise of the first stage, in float64 from the weights."""
    w = {name: parameter.double() for name, parameter in model.state_dict().items()}
    x = F.conv2d(image.double(), w["stem.0.weight"], w["stem.0.bias"], stride=4)[0]
    x = x - x.mean(0)
    x = x / (x.square().mean(0) + 1e-6).sqrt() * w["stem.1.weight"][:, None, None] + w["stem.1.bias"][:, None, None]
    height, width = x.shape[-2:]
    rows, columns = -(-height // 2), -(-width // 2)
    pooled = torch.stack(
        [x[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean((1, 2)) for r in range(rows) for c in range(columns)]
    )
    b = {name.rpartition("global_branch.")[2]: value for name, value in w.items() if "stages.0.blocks.0.glo" in name}
    tokens = pooled @ b["down.weight"].T + b["down.bias"]
    stored = tokens - tokens.mean(0) if model.global_config.center_tokens else tokens
    memory = copy.deepcopy(model.stages[0].blocks[0].global_branch.memory).double()
    told = by_the_oracle(memory, stored)
    gates = []
    for read in (told.read, told.read_initial):
        context = rms(read @ b["proj.weight"].T, b["norm.weight"])
        context = context + rms(tokens, b["carry_norm.weight"])
        gates.append((context @ b["up.weight"].T + b["up.bias"]).sigmoid().T.view(-1, rows, columns))
    return gates[0], gates[1], told.surprise.view(rows, columns)


@pytest.mark.parametrize("memory", MEMORIES)
def test_gates_and_surprise_are_what_the_formulas_give(memory):
    torch.set_default_dtype(torch.float64)
    try:
        model = stirred(memory=memory, memory_width=4)
        image = torch.randn(1, 3, 27, 22)
        gate, unwritten, surprise = expected_of_first_stage(model, image)
        seen = inspect(model, image).stages[0]
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(seen.gate, gate, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(seen.unwritten_gate, unwritten, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(seen.written, gate - unwritten, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(seen.surprise, surprise, rtol=1e-6, atol=0, equal_nan=True)
    assert seen.surprise.isnan().sum() == (memory.get("read") == "causal")  # 9 tokens: chunks of 4, 4 and 1


@pytest.mark.parametrize("knobs", [{}, {"state": "mlp"}, {"state": "linear", "read": "causal", "chunk_size": 20}])
def test_every_stage_has_the_gates_that_the_model_multiplies_with(knobs):
    model = stirred(memory=knobs)
    image = torch.randn(3, 64, 64)
    stages = inspect(model, image).stages
    for stage, gate in zip(stages, gate_maps(model, image[None]), strict=True):
        assert torch.equal(stage.gate, gate[0])
        assert stage.surprise.shape == stage.gate.shape[1:]
        assert stage.written.abs().max() > 1e-4


def test_far_away_changes_the_gate_through_what_was_written_only():
    """With the tokens' mean left on, a memory that nothing was written to answers nothing."""
    model = stirred(center_tokens=False)
    image = torch.randn(3, 128, 128)
    other = image.clone()
    other[:, 96:, 96:] += 3
    one, two = (inspect(model, each).stages[0] for each in (image, other))
    assert (one.gate - two.gate)[:, 0, 0].abs().max() > 1e-4
    assert torch.equal(one.unwritten_gate[:, 0, 0], two.unwritten_gate[:, 0, 0])


@pytest.mark.parametrize("size", [(8, 8), (9, 31), (35, 8), (50, 61)])
def test_any_size(size):
    model = stirred()
    first, second = inspect(model, torch.randn(3, *size)).stages
    assert first.covered == (size[0] // 4 * 4, size[1] // 4 * 4)
    assert second.covered == (size[0] // 8 * 8, size[1] // 8 * 8)
    for stage in (first, second):
        on_map = stage.tokens_on_map(stage.surprise)
        assert stage.gates_on_map(stage.gate).shape[1:] == on_map.shape == stage.map_size
    with_memory, without = receptive_fields(model, torch.randn(1, 3, *size))
    assert with_memory.shape == without.shape == size


def test_maps_lie_where_the_block_lays_them():
    model = stirred()
    stage = inspect(model, torch.randn(3, 36, 28)).stages[0]
    assert torch.equal(stage.gates_on_map(stage.gate), upsample(stage.gate[None], (9, 7))[0])
    on_map = stage.tokens_on_map(stage.surprise)
    assert on_map[3, 4] == stage.surprise[1, 2]
    assert on_map[8, 6] == stage.surprise[4, 3]  # a token over the edge holds the pixels that are there


def traces(model: ConvNeur) -> list:
    return [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]


@pytest.mark.parametrize("look", [inspect, receptive_fields, ablate_gates])
def test_the_model_is_left_as_it_was(look, monkeypatch):
    model = stirred().train()
    model.stages[1].blocks[0].eval()  # as what is frozen often is
    weights = copy.deepcopy(model.state_dict())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.stages[0].register_forward_hook(lambda *_: None)
    before = traces(model)
    look(model, torch.randn(3, 40, 40))
    assert traces(model) == before
    for wrong in (torch.randn(3, 4, 40), torch.randn(2, 3, 40, 40), torch.randn(1, 40, 40)):
        with pytest.raises(ValueError, match=r"give|takes"):
            look(model, wrong)
    monkeypatch.setattr(model.stages[1].blocks[1], "forward", lambda _: 1 / 0)  # behind all hooks
    with pytest.raises(ZeroDivisionError):
        look(model, torch.randn(3, 40, 40))
    assert traces(model) == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all((parameter.grad == 1).all() for parameter in model.parameters())


def test_fused_models_tell_the_same_and_stay_fused():
    model = stirred(dims=(16, 24))
    fused = copy.deepcopy(model).fuse()
    image = torch.randn(3, 64, 48)
    for plain, quick in zip(inspect(model, image).stages, inspect(fused, image).stages, strict=True):
        for name in ("gate", "unwritten_gate", "surprise"):
            torch.testing.assert_close(getattr(quick, name), getattr(plain, name))
    torch.testing.assert_close(receptive_fields(fused, image), receptive_fields(model, image), rtol=1e-3, atol=1e-4)
    one, two = ablate_gates(model, image), ablate_gates(fused, image)
    torch.testing.assert_close(one.unwritten, two.unwritten)
    assert all(block.fused is not None for block in fused.stages[0].blocks) or ops.local_branch.missing


def test_another_write_rule_is_what_is_shown(monkeypatch):
    """Where every slot holds zero nothing is written."""
    model = stirred()
    image = torch.randn(3, 40, 40)
    assert inspect(model, image).stages[0].written.abs().max() > 1e-4
    monkeypatch.setattr(ops.memory, "write", lambda keys, values, _: torch.zeros_like(keys.mT @ values))
    for stage in inspect(model, image).stages:
        torch.testing.assert_close(stage.written, torch.zeros_like(stage.gate))


def test_another_read_is_what_is_shown(monkeypatch):
    """A memory that answers nothing is off by what was written."""
    model = stirred()
    image = torch.randn(3, 40, 40)
    monkeypatch.setattr(ops.memory, "read", lambda _, keys: torch.zeros_like(keys))
    stage = inspect(model, image).stages[0]
    branch = model.stages[0].blocks[0].global_branch
    with torch.inference_mode():
        tokens, grid = branch.tokens(model.stem(image[None]))
        _, values, steps = branch.memory.inputs(tokens - tokens.mean(1, keepdim=True))
    torch.testing.assert_close(stage.surprise, (steps * values).square().mean((1, 3)).view(grid))
    torch.testing.assert_close(stage.written, torch.zeros_like(stage.gate))


def test_inside_inference_mode_and_with_checkpointing():
    model = stirred()
    image = torch.randn(3, 40, 40)
    expected = receptive_fields(model, image)
    model.set_grad_checkpointing()
    with torch.inference_mode():
        torch.testing.assert_close(receptive_fields(model, image.clone()), expected)


@pytest.mark.parametrize("arguments", [{"global_placement": "none"}, {"fusion": "add"}, {"fusion": "concat"}])
def test_what_has_no_gates_is_refused(arguments):
    with pytest.raises(ValueError, match="the model has no gates"):
        inspect(stirred(**arguments), torch.randn(3, 40, 40))


def test_the_first_branch_of_a_stage_is_shown_and_gate_alone_is_a_fusion():
    model = stirred(fusion="gate", global_placement="per_layer", preset="published")
    stages = inspect(model, torch.randn(3, 40, 40)).stages
    assert [tuple(stage.gate.shape) for stage in stages] == [(6, 5, 5), (8, 5, 5)]


@pytest.mark.parametrize("token_mixer", ["se", "attention"])
def test_other_token_mixers_write_nothing(token_mixer):
    model = stirred(token_mixer=token_mixer, memory_width=8)
    image = torch.randn(3, 40, 40)
    for stage in inspect(model, image).stages:
        assert stage.gate.shape[1:] == (5, 5)
        assert stage.surprise is stage.unwritten_gate is stage.written is None
    told = ablate_gates(model, image)
    assert told.unwritten is None
    assert len(told.flat) == 2


def test_without_memory_the_receptive_field_ends_where_the_convolutions_end():
    """7 x 7 at stride 4, 2 x 2, then twice 7 x 7 at stride 8: 3 * 4 + 2 * 3 * 8 px around the 8 of the middle."""
    image = torch.randn(3, 192, 192)
    whole, local = receptive_fields(stirred(), image)
    assert whole.min() > 0
    first, last = 96 - 12 - 48, 96 + 8 + 12 + 48
    inside = torch.zeros_like(local, dtype=torch.bool)
    inside[first:last, first:last] = True
    assert (local[~inside] == 0).all()
    assert (local[inside] > 0).all()
    for same in receptive_fields(stirred(global_placement="none"), image):
        assert (same[~inside] == 0).all()


@pytest.mark.parametrize("arguments", [{}, {"fusion": "add"}, {"fusion": "concat", "memory": {"state": "mlp"}}])
def test_ablated_answers_are_those_of_a_run_by_hand(arguments):
    """The model once more, stage by stage, with what the branch of one stage answers put in by hand."""
    model = stirred(**arguments)
    image = torch.randn(1, 3, 40, 40)
    told = ablate_gates(model, image)
    with torch.inference_mode():
        torch.testing.assert_close(told.probabilities, model(image).softmax(1)[0])
        for number in range(2):
            for how, found in (("unwritten", told.unwritten[number]), ("flat", told.flat[number])):
                other = copy.deepcopy(model)
                branch = other.stages[number].blocks[0].global_branch
                if how == "unwritten":
                    branch.memory.forward = lambda tokens, m=branch.memory: torch.stack(
                        [by_the_oracle(m, sample).read_initial.float() for sample in tokens]
                    )
                else:
                    own = type(branch).forward
                    branch.forward = lambda x, b=branch, f=own: tuple(
                        None if a is None else torch.zeros_like(a) + a.mean((2, 3), keepdim=True) for a in f(b, x)
                    )
                expected = other(image).softmax(1)[0]
                torch.testing.assert_close(found, expected)
                assert told.change(found) == pytest.approx(float((expected - told.probabilities)[told.top]), abs=1e-6)
                assert abs(told.change(found)) > 1e-6


@pytest.mark.parametrize("arguments", [{"num_classes": 0}, {"global_placement": "none"}])
def test_what_cannot_be_ablated_is_refused(arguments):
    with pytest.raises(ValueError, match="the model has no"):
        ablate_gates(stirred(**arguments), torch.randn(3, 40, 40))


def test_grad_cam_is_the_package_s_on_the_last_map():
    """By hand: the last map's channels, weighted by the mean slope of the logit, what is below 0 cut, 0 to 1."""
    pytest.importorskip("pytorch_grad_cam")
    model = stirred().requires_grad_(False)
    image = torch.randn(3, 44, 60)
    found = grad_cam(model, image, 2)
    last = model.forward_features(image[None]).requires_grad_()
    (slopes,) = torch.autograd.grad(model.forward_head(last)[0, 2], last)
    expected = (slopes.mean((2, 3), keepdim=True) * last).sum(1)[0].relu().detach()
    expected = (expected - expected.min()) / (expected - expected.min()).max()
    assert found.shape == (5, 7)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not any(m._forward_hooks for m in model.modules())
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())


def test_without_the_package_grad_cam_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(ImportError, match=r"pip install 'convneur\[explain\]'"):
        grad_cam(stirred(), torch.randn(3, 40, 40), 0)
