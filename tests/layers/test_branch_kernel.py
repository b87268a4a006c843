"""The global branch by one call of C: what it computes, where it serves, and that it can be done without."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from convneur import MemoryConfig
from convneur.layers import ConvNeurBlock, GlobalBranch, branch_kernel
from convneur.memory import Linear, RMSNorm, library
from tests.memory.kernel_builders import Counted, guarded, stirred, undisturbed

pytestmark = pytest.mark.skipif(
    None in (branch_kernel.LIBRARY, library.LIBRARY), reason="the C library of the global branch was not built"
)
states = pytest.mark.parametrize("state", ["linear", "mlp"])
AVX512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")


@pytest.fixture(
    params=["avx2", pytest.param("avx512", marks=pytest.mark.skipif(not AVX512, reason="the processor has no AVX-512"))]
)
def calls(request, monkeypatch):
    """How often the kernel was called, as it is compiled for each processor."""
    counted = Counted(branch_kernel.LIBRARY)
    monkeypatch.setattr(branch_kernel, "PROCESSOR", request.param)
    monkeypatch.setattr(branch_kernel, "LIBRARY", counted)
    return counted.calls


@pytest.fixture
def any_amount(monkeypatch):
    """With AVX2, too, the kernel takes as many tokens as there are."""
    monkeypatch.setattr(branch_kernel, "ENOUGH", dict.fromkeys(branch_kernel.ENOUGH, 2**62))


def branch(channels: int = 8, width: int = 16, **kwargs) -> GlobalBranch:
    torch.manual_seed(3)
    return stirred(GlobalBranch(channels, width, **kwargs))


def image(*shape: int) -> Tensor:
    return torch.randn(shape).to(memory_format=torch.channels_last)


def given(answers: tuple[Tensor, Tensor | None]) -> list[Tensor]:
    return [each for each in answers if each is not None]


def close(found, expected, to: float = 1e-5) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert (a - b).norm() <= to * (b.norm() + 1e-3)


def is_what_the_layers_say(module: GlobalBranch, x: Tensor, calls) -> None:
    """In float64; by one call, channels last."""
    with torch.inference_mode():
        expected = given(copy.deepcopy(module).double()(x.double()))
        assert not calls
        found = given(module(x))
    assert sum(calls.values()) == 1
    close(found, expected, 2e-5)
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in found)


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"center_tokens": False},
        {"carry_tokens": False},
        {"shift": False},
        {"memory": MemoryConfig(momentum=False)},
        {"memory": MemoryConfig(decay=False)},
        {"memory": MemoryConfig(momentum=False, decay=False, reference_length=None, max_step=0.01)},
    ],
)
@pytest.mark.parametrize(("channels", "width", "heads"), [(8, 16, 4), (40, 80, 4), (5, 24, 1), (24, 33, 3)])
@pytest.mark.parametrize(("size", "stride"), [((1, 1), 1), ((7, 7), 1), ((13, 9), 2), ((56, 50), 4), ((33, 20), 1)])
def test_it_is_what_the_layers_say_in_float64(knobs, channels, width, heads, size, stride, calls, any_amount):
    """1 to 660 tokens, which fill one tile or several, the last one whole or not."""
    config = {"heads": heads} | ({} if "memory" not in knobs else vars(knobs["memory"]) | {"heads": heads})
    module = branch(channels, width, token_stride=stride, **knobs | {"memory": MemoryConfig(**config)})
    is_what_the_layers_say(module, image(2, channels, *size) + torch.randn(1, channels, 1, 1), calls)


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"center_tokens": False, "carry_tokens": False, "shift": False},
        {"memory": {"momentum": False}},
        {"memory": {"decay": False, "reference_length": None, "max_step": 0.01}},
    ],
)
@pytest.mark.parametrize(("channels", "width", "heads"), [(8, 16, 1), (40, 80, 1), (24, 96, 3)])
@pytest.mark.parametrize(("size", "stride"), [((1, 1), 1), ((7, 7), 1), ((56, 50), 4), ((33, 20), 1)])
def test_the_mlp_state_is_what_the_layers_say_in_float64(
    knobs, channels, width, heads, size, stride, calls, any_amount
):
    config = {"state": "mlp", "heads": heads} | knobs.get("memory", {})
    module = branch(channels, width, token_stride=stride, **knobs | {"memory": MemoryConfig(**config)})
    is_what_the_layers_say(module, image(2, channels, *size) + torch.randn(1, channels, 1, 1), calls)


@states
def test_sums_of_many_tokens_keep_their_precision(state, calls, any_amount):
    """Of an image of 2,048 px, whose tokens are mostly alike."""
    module = branch(16, 80, memory=MemoryConfig(state=state))
    x = (torch.randn(1, 16, 1, 1) + 0.05 * torch.randn(1, 16, 128, 128)).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        close(given(module(x)), given(copy.deepcopy(module).double()(x.double())), 5e-5)
    assert calls


@states
def test_an_image_gives_the_same_alone_and_with_others(state, calls, any_amount):
    module, x = branch(40, 80, token_stride=2, memory=MemoryConfig(state=state)), image(9, 40, 28, 28)
    with torch.inference_mode():
        together = given(module(x))
        for number in (0, 8):
            alone = given(module(x[number : number + 1].contiguous(memory_format=torch.channels_last)))
            assert all(torch.equal(a[0], b[number]) for a, b in zip(alone, together, strict=True))


@states
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize(("channels", "size", "stride"), [(5, (3, 3), 1), (40, (31, 30), 2), (100, (14, 14), 1)])
def test_nothing_is_written_beyond_its_place_and_fresh_memory_may_hold_anything(
    state, channels, size, stride, threads, calls, monkeypatch
):
    width, memory = 20 if state == "linear" else 32, MemoryConfig(state=state)
    module, x, made = branch(channels, width, token_stride=stride, memory=memory), image(3, channels, *size), []

    def new_empty(_self: Tensor, *shape: int) -> Tensor:
        made.append(guarded(*shape))
        return made[-1][0].fill_(torch.nan)

    before = torch.get_num_threads()
    with torch.inference_mode():
        expected = given(copy.deepcopy(module).double()(x.double()))
        monkeypatch.setattr(Tensor, "new_empty", new_empty)
        try:
            torch.set_num_threads(threads)
            close(given(module(x)), expected)
        finally:
            torch.set_num_threads(before)
    assert len(made) == 3
    assert all((behind == 7).all() for _, behind in made)


@states
def test_a_fused_branch_follows_its_weights(state, calls):
    module, x = branch(memory=MemoryConfig(state=state)).fuse(), image(1, 8, 6, 6)
    with torch.inference_mode():
        before = given(module(x))
        module.memory.to_values.weight.mul_(2)
        after = given(module(x))
        close(after, given(copy.deepcopy(module).double().fuse()(x.double())))
    assert not torch.allclose(before[0], after[0])


@states
def test_several_threads_at_once_do_not_disturb_each_other(state, calls):
    module, images = branch(memory=MemoryConfig(state=state)), [image(1, 8, 20, 20) for _ in range(8)]
    with torch.inference_mode():
        expected = [module(each)[0] for each in images]
    assert undisturbed(module, images, expected)


class Louder(GlobalBranch):
    """One that says something else about tokens."""

    def tokens(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        tokens, grid = super().tokens(x)
        return tokens * 2, grid


class LouderLinear(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def louder(module: Linear) -> LouderLinear:
    made = LouderLinear(module.in_features, module.out_features)
    made.load_state_dict(module.state_dict(), strict=False)
    return made


def replaced(name: str, part: nn.Module) -> GlobalBranch:
    module = branch()
    setattr(module, name, part)
    return module.eval()


@pytest.mark.parametrize(
    "module",
    [
        replaced("down", louder(branch().down)),
        replaced("up", louder(branch().up)),
        replaced("norm", nn.LayerNorm(16)),
        replaced("carry_norm", nn.RMSNorm(16, eps=1.0)),
        stirred(Louder(8, 16)),
        branch(memory=MemoryConfig(state="mlp", heads=4)),
        branch(memory=MemoryConfig(read="causal", chunk_size=9)),
        branch(memory=MemoryConfig(state="mlp", chunk_size=9)),
        branch(globalizer="se"),
    ],
    ids=[
        "down",
        "up",
        "norm",
        "carry_norm",
        "a subclass",
        "mlp, narrow heads",
        "causal",
        "mlp in chunks",
        "another globalizer",
    ],
)
def test_what_is_something_else_is_left_alone(module, calls):
    x = image(1, 8, 6, 6)
    with torch.inference_mode():
        close(given(module(x)), given(copy.deepcopy(module).double()(x.double())), 1e-4)
    assert not calls


@states
def test_who_wants_something_else_is_left_with_torch(state, calls):
    module, x, seen = branch(memory=MemoryConfig(state=state)), image(1, 8, 6, 6), []
    module(x)[0].sum().backward()
    with torch.inference_mode():
        module(x.contiguous())
        copy.deepcopy(module).double()(x.double())
        with torch.autocast("cpu"):
            module(x)
        torch.export.export(module, (x,), strict=False)
        with register_module_forward_hook(lambda each, *_: seen.append(type(each))):
            module(x)
        assert RMSNorm in seen
        assert not calls
        for part in (module.down, module.proj, module.norm, module.carry_norm, module.up_shift, module.memory):
            hook = part.register_forward_hook(lambda each, *_: seen.append(each))
            module(x)
            assert seen[-1] is part
            assert not calls
            hook.remove()
        strided = copy.deepcopy(module)
        strided.up.weight = nn.Parameter(module.up.weight.mT.contiguous().mT)
        strided(x)
    assert not calls


@pytest.mark.parametrize(
    ("name", "put"), [("down", "forward"), ("up_shift", "forward"), ("norm", "forward"), ("", "tokens"), ("", "_read")]
)
def test_a_method_that_one_object_was_given_is_the_one_that_runs(name, put, calls):
    """Adapters are injected like this. A clock that only looks on is none."""
    module, x, seen = branch(carry_tokens=name != "norm"), image(1, 8, 6, 6), []
    owner = getattr(module, name) if name else module
    before = getattr(owner, put)

    def other(*args):
        seen.append(args)
        return before(*args)

    setattr(owner, put, other)
    with torch.inference_mode():
        module(x)
        assert seen
        assert not calls
        other.only_watches = True
        module(x)
    assert len(seen) == 1
    assert sum(calls.values()) == 1


@pytest.mark.parametrize(
    ("where", "put"),
    [
        ("memory", "forward"),
        ("memory", "taught"),
        ("memory.to_keys", "forward"),
        ("memory.store_norm", "forward"),
        ("memory.fast", "gradient"),
        ("memory.fast", "read"),
        ("proj", "forward"),
    ],
)
def test_a_method_that_a_layer_of_an_mlp_memory_was_given_is_the_one_that_runs(where, put, calls):
    module, x, seen = branch(memory=MemoryConfig(state="mlp")), image(1, 8, 6, 6), []
    owner = module.get_submodule(where)
    before = getattr(owner, put)
    setattr(owner, put, lambda *args: seen.append(args) or before(*args))
    with torch.inference_mode():
        module(x)
    assert seen
    assert not calls


def test_memories_that_would_fill_the_machine_are_left_with_torch(calls, monkeypatch):
    module, x = branch(memory=MemoryConfig(state="mlp")), image(3, 8, 6, 6)
    with torch.inference_mode():
        expected = given(module(x))
        calls.clear()
        monkeypatch.setattr(branch_kernel, "MOST_HELD", 3 * 16 * (8 * 16 + 1) - 1)
        close(given(module(x)), expected)
        assert not calls


@pytest.mark.parametrize(
    "where", ["memory.to_rates.bias", "memory.store_norm.weight", "up.weight", "carry_norm.weight", "memory.fast.gain"]
)
def test_what_is_missing_is_told_by_torch(where, calls):
    state = "mlp" if "fast" in where else "linear"
    module, x = branch(memory=MemoryConfig(state=state)), image(1, 8, 6, 6)
    owner, name = where.rsplit(".", 1)
    setattr(module.get_submodule(owner), name, None)
    with torch.inference_mode(), pytest.raises((AttributeError, TypeError)):
        module(x)
    assert not calls


def test_numbers_that_are_elsewhere_or_of_another_sign_are_left_with_torch(calls):
    module, x = branch(), image(1, 8, 6, 6)
    gone, sparse = copy.deepcopy(module), copy.deepcopy(module)
    gone.up.weight.untyped_storage().resize_(0)
    sparse.up.weight = nn.Parameter(module.up.weight.detach().to_sparse_csr())
    with torch.no_grad():
        torch.testing.assert_close(module(torch._neg_view(x)), module(-x), rtol=1e-4, atol=1e-5)
        assert sum(calls.values()) == 1
        torch.testing.assert_close(sparse(x), module(x), rtol=1e-4, atol=1e-5)
        assert sum(calls.values()) == 2
        with pytest.raises(RuntimeError):
            gone(x)
    assert sum(calls.values()) == 2


def test_with_avx2_alone_large_products_are_left_with_torch(calls):
    """M4's at eight images; those of M1 and M3 at one are not."""
    with torch.inference_mode():
        branch(8, 160)(image(8, 8, 14, 14))
        assert (sum(calls.values()) == 0) == (branch_kernel.PROCESSOR == "avx2")
        calls.clear()
        branch(8, 128)(image(1, 8, 14, 14))
        assert calls


def test_a_block_goes_by_it(calls):
    torch.manual_seed(3)
    block = stirred(ConvNeurBlock(16, GlobalBranch(16, 16, token_stride=2), fusion="gate_add"))
    x = image(2, 16, 9, 10)
    with torch.inference_mode():
        found = block(x)
        assert calls
        close([found], [copy.deepcopy(block).double()(x.double())])
