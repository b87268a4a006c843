"""The default memory with gradients by C computes what autograd makes of PyTorch's operators in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from convneur import MemoryConfig
from convneur.memory import Linear, answer, library, maps_of, training
from convneur.memory.folded_gradient import composed
from convneur.memory.neural_memory import NeuralMemory
from tests.memory.kernel_builders import built, guarded, stirred

pytestmark = built


class Answered(nn.Module):
    """A memory and the map behind it."""

    def __init__(self, width: int, config: MemoryConfig) -> None:
        super().__init__()
        self.memory = NeuralMemory(width, config)
        self.proj = Linear(width, width, bias=False)

    @property
    def maps(self):
        maps = maps_of(self.memory, self.proj)
        assert maps is not None
        return maps

    def forward(self, tokens: Tensor) -> Tensor:
        return answer(self.memory.config, self.maps, tokens)


def made(width: int = 80, **knobs) -> Answered:
    torch.manual_seed(2)
    return stirred(Answered(width, MemoryConfig(**knobs)))


def gradients(out: Tensor, tokens: Tensor, maps: tuple[Tensor, ...], create_graph: bool = False) -> list[Tensor]:
    grad = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
    return list(torch.autograd.grad(out, (tokens, *maps), grad, create_graph=create_graph))


def close(found: Tensor, expected: Tensor, to: float = 2e-5) -> None:
    assert found.shape == expected.shape
    assert (found - expected).norm() <= to * (expected.norm() + 1e-3)


@pytest.mark.parametrize(
    "knobs", [{}, {"momentum": False}, {"decay": False}, {"momentum": False, "decay": False, "reference_length": None}]
)
@pytest.mark.parametrize(("width", "heads"), [(16, 4), (80, 4), (24, 1), (48, 2)])
@pytest.mark.parametrize(("batch", "count"), [(1, 1), (3, 9), (2, 196), (1, 300)])
def test_it_is_what_autograd_says_in_float64(knobs, width, heads, batch, count):
    """Heads of 4 to 24 numbers; tokens that are added up at once, and in parts."""
    module = made(width, heads=heads, max_step=0.05, **knobs)
    tokens = (torch.randn(batch, count, width) + torch.randn(width)).requires_grad_()
    out = module(tokens)
    assert type(out.grad_fn).__name__ == "AnswerByKernelBackward"
    double, exact = copy.deepcopy(module).double(), tokens.detach().double().requires_grad_()
    expected = composed(double.memory.config, exact, *double.maps)
    close(out, expected)
    for found, wanted in zip(gradients(out, tokens, module.maps), gradients(expected, exact, double.maps), strict=True):
        close(found, wanted, 5e-5)


def test_gradients_have_gradients():
    module, tokens = made(), torch.randn(2, 9, 80, requires_grad=True)
    found = gradients(module(tokens), tokens, module.maps, create_graph=True)
    exact = composed(module.memory.config, tokens, *module.maps)
    wanted = gradients(exact, tokens, module.maps, create_graph=True)
    for some in (found, wanted):
        some.append(torch.autograd.grad(sum(each.square().sum() for each in some), tokens)[0])
    for one, other in zip(found, wanted, strict=True):
        close(one, other, 1e-4)


def test_the_numbers_of_threads_and_images_do_not_matter():
    module, tokens = made(), torch.randn(5, 49, 80, requires_grad=True)

    def found(some: Tensor) -> list[Tensor]:
        out = module(some)
        return [out, *torch.autograd.grad(out.sum(), (some, *module.maps))]

    expected, threads = found(tokens), torch.get_num_threads()
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            for one, other in zip(found(tokens), expected, strict=True):
                close(one, other, 1e-5)
    finally:
        torch.set_num_threads(threads)
    alone = tokens[2:3].detach().requires_grad_()
    for one, other in zip(found(alone)[:2], expected[:2], strict=True):
        close(one[0], other[2], 1e-5)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("count", "width", "heads"), [(1, 8, 1), (5, 40, 4), (200, 40, 2), (33, 24, 1)])
def test_nothing_is_written_beyond_its_place_and_fresh_memory_may_hold_anything(
    count, width, heads, threads, monkeypatch
):
    module, tokens, places = made(width, heads=heads), torch.randn(2, count, width), []

    def new_empty(_self: Tensor, *shape: int) -> Tensor:
        places.append(guarded(*shape))
        return places[-1][0].fill_(torch.nan)

    of = torch.randn(2, count, 3 * width + 3 * heads)
    before = torch.get_num_threads()
    with torch.no_grad():
        torch.set_num_threads(threads)
        try:
            monkeypatch.setattr(Tensor, "new_empty", new_empty)
            monkeypatch.setattr(torch, "empty_like", lambda x: new_empty(x, *x.shape))
            answers, memory = training._write_and_read(module.memory.config, module.maps, of)
            made_of = training._gradient(module.memory.config, module.maps, of, memory.clone(), tokens)
        finally:
            torch.set_num_threads(before)
    assert all(each.isfinite().all() for each in (answers, memory, *made_of))
    assert len(places) == 6
    assert all((behind == 7).all() for _, behind in places)


def test_what_it_does_not_take_goes_by_operators(monkeypatch):
    module, tokens = made(), torch.randn(2, 9, 80, requires_grad=True)

    def by() -> str:
        return type(module(tokens).grad_fn).__name__

    assert by() == "AnswerByKernelBackward"
    with torch.no_grad():
        assert module(tokens).grad_fn is None
    narrow, odd = made(12, heads=3), torch.randn(2, 9, 12, requires_grad=True)
    assert type(narrow(odd).grad_fn).__name__ == "AnswerBackward"
    assert type(copy.deepcopy(module).double()(tokens.double()).grad_fn).__name__ == "AnswerBackward"
    monkeypatch.setattr(library, "LIBRARY", None)
    assert by() == "AnswerBackward"


def test_who_calls_backward_may_cast():
    module, tokens = made(), torch.randn(2, 9, 80, requires_grad=True)
    wanted = gradients(module(tokens), tokens, module.maps)
    out = module(tokens)
    with torch.autocast("cpu"):
        found = gradients(out, tokens, module.maps)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_who_looks_on_at_backward_sees_operators():
    module, tokens = made(), torch.randn(2, 9, 80, requires_grad=True)
    wanted = gradients(module(tokens), tokens, module.maps)
    out = module(tokens)
    with FlopCounterMode(display=False) as counter:
        found = gradients(out, tokens, module.maps)
    assert counter.get_total_flops() > 2 * 2 * 9 * 80 * 80 * 10
    for one, other in zip(found, wanted, strict=True):
        close(one, other)


def test_what_was_kept_may_come_back_otherwise():
    def kept(x: Tensor) -> Tensor:
        return x.mT.contiguous() if x.ndim > 1 else x

    module, tokens = made(), torch.randn(2, 9, 80, requires_grad=True)
    wanted = gradients(module(tokens), tokens, module.maps)
    with torch.autograd.graph.saved_tensors_hooks(kept, lambda x: x.mT if x.ndim > 1 else x):
        out = module(tokens)
    for one, other in zip(gradients(out, tokens, module.maps), wanted, strict=True):
        close(one, other)


def test_weights_that_are_not_there_are_told():
    module, tokens = made(), torch.randn(2, 9, 80, requires_grad=True)
    out = module(tokens)
    module.memory.fast.weight.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="was freed"):
        out.sum().backward()
    with pytest.raises(RuntimeError, match="was freed"):
        module(tokens)
