"""A program whose local branches go by one call computes what it did; what is not quite a branch stays with PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

from convneur.export.torch_local import LocalBranch, by_our_local_branch
from convneur.layers import local_kernel
from tests.export.test_torch_graph import DIM, answers_as_before, last, loaded

pytestmark = pytest.mark.skipif(local_kernel.LIBRARY is None, reason="the C library of the local block was not built")


def layers(**others: nn.Module) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    own = {
        "conv": nn.Conv2d(DIM, DIM, 7, padding=3, groups=DIM),
        "norm": nn.LayerNorm(DIM, eps=1e-3),
        "fc1": nn.Linear(DIM, 4 * DIM),
        "fc2": nn.Linear(4 * DIM, DIM),
    } | others
    for layer in own.values():
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.3)
    return own


def branches(module: GraphModule) -> list[bool]:
    """Of each branch that goes by one call, whether the map is added; the answers are seen to stay the same."""
    answers_as_before(module, by_our_local_branch)
    return [each.residual for each in module.modules() if isinstance(each, LocalBranch)]


def first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def branch(x: Tensor, conv, norm, fc1, fc2) -> Tensor:
    return fc2(F.gelu(fc1(norm(last(conv(x))))))


def added(x: Tensor, **own: nn.Module) -> Tensor:
    return first(last(x) + branch(x, **own))


def _written_before_it_is_added(x: Tensor, **own: nn.Module) -> Tensor:
    y = x * 2
    turned, made = last(y), branch(y, **own)
    y.mul_(3)
    return first(turned + made)


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda x, **own: first(branch(x, **own)), [False]),
        (added, [True]),
        (lambda x, **own: first(last(x) + 2 * branch(x, **own)), [False]),
        (lambda x, **own: first(last(2 * x) + branch(x, **own)), [False]),
        (lambda x, **own: first(torch.add(last(x), branch(x, **own), alpha=2)), [False]),
        (lambda x, **own: first(branch(x, **own)) * 2 + x, [False]),
        (lambda x, **own: added(added(x, **own), **own), [True, True]),
        (_written_before_it_is_added, [False]),
    ],
)
def test_a_branch_goes_by_one_call(function, found):
    assert branches(loaded(function, **layers())) == found


@pytest.mark.parametrize(
    "others",
    [
        {"conv": nn.Conv2d(DIM, DIM, 7, padding=3)},
        {"conv": nn.Conv2d(DIM, DIM, 5, padding=2, groups=DIM)},
        {"conv": nn.Conv2d(DIM, DIM, 7, padding=9, dilation=3, groups=DIM)},
        {"conv": nn.Conv2d(DIM, DIM, 7, padding=3, groups=DIM, bias=False)},
        {"norm": nn.LayerNorm(DIM, elementwise_affine=False)},
        {"norm": nn.LayerNorm(DIM, bias=False)},
        {"fc1": nn.Linear(DIM, 4 * DIM, bias=False)},
        {"fc1": nn.Linear(DIM, 3 * DIM), "fc2": nn.Linear(3 * DIM, DIM)},
        {"fc2": nn.Linear(4 * DIM, 2 * DIM)},
    ],
    ids=str,
)
def test_layers_of_another_kind_stay(others):
    assert branches(loaded(lambda x, **own: first(branch(x, **own)), **layers(**others))) == []


def _used_twice(name: str):
    def function(x: Tensor, conv, norm, fc1, fc2) -> Tensor:
        made = {"conv": conv(x)}
        made["turned"] = last(made["conv"])
        made["norm"] = norm(made["turned"])
        made["fc1"] = fc1(made["norm"])
        made["gelu"] = F.gelu(made["fc1"])
        return first(fc2(made["gelu"])).sum(1) + made[name].sum()

    return function


def _written(x: Tensor, conv, norm, fc1, fc2) -> Tensor:
    y = x * 2
    turned = last(conv(y))
    y.mul_(3)
    return first(fc2(F.gelu(fc1(norm(turned))))) + y


@pytest.mark.parametrize(
    "function",
    [
        *map(_used_twice, ("conv", "turned", "norm", "fc1", "gelu")),
        _written,
        lambda x, conv, norm, fc1, fc2: first(fc2(F.gelu(fc1(norm(last(conv(x)))), approximate="tanh"))),
        lambda x, conv, norm, fc1, fc2: first(fc2(F.relu(fc1(norm(last(conv(x))))))),
        lambda x, conv, norm, fc1, fc2: first(F.gelu(fc1(norm(last(conv(x)))))),
        lambda x, conv, norm, fc1, fc2: first(fc2(F.gelu(fc1(norm(conv(x).permute(0, 3, 2, 1)))))),
        lambda x, conv, norm, fc1, fc2: first(F.linear(F.gelu(fc1(norm(last(conv(x))))), fc2.weight * 2, fc2.bias)),
    ],
)
def test_what_is_not_quite_a_branch_stays(function):
    assert branches(loaded(function, **layers())) == []
