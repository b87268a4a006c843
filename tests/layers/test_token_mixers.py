"""What each token_mixer does with far tokens, with their order, and what it costs."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn

from convneur import create_model
from convneur.bench import count_cost
from convneur.layers.global_branch import GlobalBranch
from convneur.layers.token_mixers import TOKEN_MIXERS, BidirectionalRWKV, Pointwise, TokenMixerKind
from convneur.memory import MemoryConfig, make_memory

DIM, WIDTH, SIDE = 12, 16, 6
KINDS = [kind for kind in TOKEN_MIXERS if kind != "titans"]
LINEAR = MemoryConfig("linear")
CAUSAL = MemoryConfig("linear", read="causal", chunk_size=9)


def branch_of(kind: str, memory: MemoryConfig | None = None, **options) -> nn.Module:
    """A branch in which everything is alive: as after training, no weight is zero."""
    if kind == "titans":
        pytest.importorskip("titans_pytorch", reason="titans-pytorch is not installed (extra: dev)")
    torch.manual_seed(0)
    branch = GlobalBranch(DIM, WIDTH, memory=memory, token_mixer=kind, **options).double().eval()
    with torch.no_grad():
        for parameter in branch.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return branch


def answers(branch: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Gate and shift as one map."""
    return torch.cat(branch(x), 1)


def reached(branch: nn.Module, row: int, column: int) -> torch.Tensor:
    """(h, w): where the answer changes when one pixel does."""
    x = torch.randn(1, DIM, SIDE, SIDE, dtype=torch.float64)
    other = x.clone()
    other[..., row, column] += torch.randn(DIM, dtype=torch.float64)
    with torch.no_grad():
        return (answers(branch, x) - answers(branch, other))[0].abs().amax(0) > 1e-12


@pytest.mark.parametrize("kind", [*KINDS, "titans"])
def test_which_places_one_pixel_reaches(kind):
    """All of them at once; but the control reaches its own place alone, and a causal memory what comes later."""
    changed = reached(branch_of(kind, center_tokens=False), 2, 3)
    place = 2 * SIDE + 3
    if kind == "pointwise":
        assert changed.flatten().nonzero().flatten().tolist() == [place]
    elif kind == "titans":
        assert not changed.flatten()[:place].any()  # one chunk of 36: nothing is written before its last token reads
    else:
        assert changed.all()


def test_a_causal_memory_reaches_later_chunks_alone():
    changed = reached(branch_of("memory", CAUSAL, center_tokens=False), 2, 3).flatten()  # token 15, in the second chunk
    assert changed.nonzero().flatten().tolist() == [15, *range(18, 36)]


@pytest.mark.parametrize("carried", [True, False])
def test_what_all_places_share_reaches_the_gate_alone_and_only_if_tokens_are_carried(carried):
    branch = branch_of("memory", token_skip=carried)
    x = torch.randn(1, DIM, SIDE, SIDE, dtype=torch.float64)
    with torch.no_grad():
        (gate, shift), (other_gate, other_shift) = branch(x), branch(x + torch.randn(1, DIM, 1, 1, dtype=x.dtype))
    torch.testing.assert_close(shift, other_shift, rtol=0, atol=1e-12)
    assert torch.allclose(gate, other_gate, rtol=0, atol=1e-12) != carried


def test_the_shift_is_the_memory_s_answer_without_the_token():
    """A place that holds what the whole image holds has nothing to write, so only its gate can know of it."""
    branch = branch_of("memory", LINEAR)
    x = torch.randn(1, DIM, 1, 1, dtype=torch.float64).expand(1, DIM, SIDE, SIDE)
    with torch.no_grad():
        gate, shift = branch(x)
    nothing = branch.up_shift.bias.view(1, -1, 1, 1).expand_as(shift)
    torch.testing.assert_close(shift, nothing, rtol=0, atol=1e-8)  # RMSNorm magnifies what rounding leaves of zero
    assert (gate - branch.up.bias.view(1, -1, 1, 1)).abs().min() > 1e-3


ORDERLESS = ["memory", "pointwise", "se", "non_local", "attention"]


@pytest.mark.parametrize("kind", KINDS)
def test_whether_the_order_of_the_tokens_counts(kind):
    """Permuting the pixels permutes the answer where nothing knows of places; a recurrence and a convolution do."""
    branch, order = branch_of(kind, center_tokens=False), torch.randperm(SIDE * SIDE)
    x = torch.randn(2, DIM, SIDE, SIDE, dtype=torch.float64)
    with torch.no_grad():
        straight = answers(branch, x).flatten(2)[..., order]
        shuffled = answers(branch, x.flatten(2)[..., order].view_as(x)).flatten(2)
    assert torch.allclose(straight, shuffled, rtol=0, atol=1e-12) == (kind in ORDERLESS)


def test_rwkv_is_the_same_from_both_ends():
    branch = branch_of("rwkv", center_tokens=False)
    x = torch.randn(2, DIM, SIDE, SIDE, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(answers(branch, x.flip(2, 3)), answers(branch, x).flip(2, 3), rtol=0, atol=1e-12)


def test_rwkv_is_the_weighted_mean_of_the_paper():
    """Against two plain loops over the formula."""
    torch.manual_seed(0)
    layer, length = BidirectionalRWKV(3).double(), 7
    with torch.no_grad():
        layer.bonus.normal_()
    keys, values = torch.randn(2, 1, length, 3, dtype=torch.float64)
    w, u = layer.decay.exp() / length, layer.bonus
    expected = torch.empty(1, length, 3, dtype=torch.float64)
    for t in range(length):
        others = [i for i in range(length) if i != t]
        weights = {i: (keys[0, i] - w * (abs(t - i) - 1)).exp() for i in others} | {t: (keys[0, t] + u).exp()}
        total = sum(weights[i] * values[0, i] for i in weights)
        expected[0, t] = total / sum(weights.values())
    torch.testing.assert_close(layer._mean(keys, values), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("memory", [MemoryConfig(), LINEAR, MemoryConfig(state="mlp")])
@pytest.mark.parametrize("width", [48, 80])
def test_the_control_has_the_parameters_of_the_memory(memory, width):
    ours, control = make_memory(width, memory), Pointwise(width, memory)
    counts = [sum(p.numel() for p in module.parameters()) for module in (ours, control)]
    assert abs(counts[0] - counts[1]) <= 2 * width + 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_model_computes_what_its_local_baseline_computes(kind):
    """Whatever is in the branch, it starts by saying nothing."""
    torch.manual_seed(0)
    model = create_model("convneur_m1", num_classes=3, token_mixer=kind, ls_init_value=0.5).eval()
    baseline = create_model("convneur_m1", num_classes=3, global_placement="none", ls_init_value=0.5).eval()
    left = baseline.load_state_dict(
        {
            k: v / 2 if k.endswith("gamma") and "blocks.0" in k else v
            for k, v in model.state_dict().items()
            if "global_branch" not in k
        }
    )
    assert not left.missing_keys
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(x), baseline(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(kind):
    branch = branch_of(kind).train()
    answers(branch, torch.randn(2, DIM, SIDE, SIDE, dtype=torch.float64)).square().sum().backward()
    assert [name for name, p in branch.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("kind", [kind for kind in get_args(TokenMixerKind) if kind not in ("memory", "titans")])
def test_costs_counted_by_hand(kind):
    """Multiply-accumulates of one branch with N tokens of width D, beside its projections."""
    C, D, N = 40, 16, 64
    hidden = Pointwise(D).mlp.fc1.out_features
    reduced = 8  # timm's width inside squeeze-excitation and non-local; 1 inside CBAM
    own = {
        "pointwise": N * 2 * D * hidden,
        "attention": N * 4 * D * D + 2 * N * N * D,
        "rwkv": N * 4 * D * D,
        "se": 2 * D * reduced,
        "cbam": 2 * 2 * D * 1 + N * 2 * 49,  # the map's mean and maximum through an MLP, then a 7 x 7 convolution
        "non_local": N * 4 * D * reduced + 2 * N * N * reduced,
    }
    cost = count_cost(
        lambda: create_model(
            "convneur_m1", dims=(C,), depths=(1,), token_strides=(1,), memory_width=D, token_mixer=kind
        ),
        32,
    )
    assert cost.macs_memory == N * (3 * C * D + D * D) + own[kind]
