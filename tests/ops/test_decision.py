"""Who computes is decided in one place, which says in words why a kernel does not serve; models go on without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from convneur import ops
from convneur.ops import _library
from tests.ops.cases import arguments_of, built, close, every_operation

x = torch.ones(2)


class Other(Tensor):
    pass


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (x.double(), "kernels compute in float32, and a tensor is float64"),
        (x.bfloat16(), "kernels compute in float32, and a tensor is bfloat16"),
        (x.to("meta"), "a tensor is on meta, strided"),
        (x.to_sparse(), "a tensor is on cpu, sparse_coo"),
        (x.clone().requires_grad_(), "autograd records"),
        (nn.Parameter(x), "autograd records"),
        (x.as_subclass(Other), "a Other is no plain tensor"),
        (torch._neg_view(x), "a tensor is a negated view"),
        (x[:0], "a tensor is empty, or its memory was freed"),
    ],
)
def test_what_no_kernel_takes(tensor, reason):
    assert ops.why_not_kernel(x, None, tensor) == reason
    assert ops.why_not_kernel(x, None, x) is None
    if reason == "autograd records":
        with torch.no_grad():
            assert ops.why_not_kernel(tensor) is None


def test_freed_memory_is_not_read():
    gone = torch.ones(3)
    gone.untyped_storage().resize_(0)
    assert ops.why_not_kernel(gone) == "a tensor is empty, or its memory was freed"


def test_what_pytorch_does_meanwhile():
    reasons = {}

    def note(name: str, given: Tensor = x) -> Tensor:
        reasons[name] = ops.why_not_kernel(given)
        return given.sum()

    with torch.autocast("cpu"):
        note("autocast")
    with ops.use_kernels(False):
        note("switched off")
    with FlopCounterMode(display=False):
        note("counted")
    with forward_ad.dual_level():
        note("forward-mode")
    torch.func.grad(lambda given: note("grad", given))(x)
    torch.vmap(lambda given: note("vmap", given))(x)
    torch.func.jvp(lambda given: note("jvp", given), (x,), (x,))
    torch.jit.trace(lambda given: note("jit.trace", given), x, check_trace=False)

    class Exported(nn.Module):
        def forward(self, given: Tensor) -> Tensor:
            return note("export", given)

    torch.export.export(Exported(), (x,), strict=False)
    assert reasons == {
        "autocast": "autocast is on",
        "switched off": "kernels are switched off (CONVNEUR_KERNELS=0)",
        "counted": "operations are recorded or counted",
        "forward-mode": "forward-mode gradients are recorded",
        "grad": "a transform of torch.func is active",
        "vmap": "a transform of torch.func is active",
        "jvp": "a transform of torch.func is active",
        "jit.trace": "the call is traced",
        "export": "the call is traced",
    }
    assert ops.why_not_kernel(x) is None


def test_compilers_see_references():
    compiled = torch.compile(lambda given: given + (ops.why_not_kernel(given) == "the call is traced"), backend="eager")
    assert torch.equal(compiled(x), x + 1)


def strided(tensor: Tensor) -> Tensor:
    """The same numbers, each with a gap behind it."""
    return torch.stack([tensor, tensor], -1)[..., 0]


def changed(args: tuple, place: int, change) -> tuple:
    return (*args[:place], change(args[place]), *args[place + 1 :])


SUITS = [
    (ops.linear, 0, lambda x: x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1), "is not channels-last"),
    (ops.linear, 2, strided, "the bias does not fit, or is not contiguous"),
    (ops.global_branch, 0, Tensor.contiguous, "is not channels-last"),
    (ops.global_branch, 14, strided, "a weight is not contiguous"),
    (ops.global_branch, 1, strided, "a weight is not contiguous"),
    (ops.gated_residual, 0, Tensor.contiguous, "a feature map is not channels-last"),
    (ops.gated_residual, 1, Tensor.contiguous, "a feature map is not channels-last"),
]


@built
@pytest.mark.parametrize(("operation", "place", "change", "reason"), SUITS)
def test_layouts_that_a_kernel_does_not_take(operation, place, change, reason):
    args = arguments_of(operation)
    other = changed(args, place, change)
    assert torch.equal(other[place], args[place])
    assert operation.why_not(*args) is None
    assert reason in operation.why_not(*other)
    for call in (operation, operation.op):
        close(call(*other), operation.reference(*args))


@built
def test_few_channels_and_odd_channels():
    few, odd = arguments_of(ops.local_branch, channels=5), arguments_of(ops.gated_residual, channels=12)
    assert ops.local_branch.why_not(*few) == f"there are fewer than {_library.LANES} channels"
    assert ops.gated_residual.why_not(*odd) == "channels are no multiple of 8"
    for operation, args in ((ops.local_branch, few), (ops.gated_residual, odd)):
        close(operation(*args), operation.reference(*args))


@built
def test_without_onednn_linear_is_left_with_torch():
    with torch.backends.mkldnn.flags(enabled=False):
        assert ops.linear.why_not(*arguments_of(ops.linear)) == "oneDNN is switched off"


TENSORS = [(operation, place) for operation in ops.OPERATIONS for place in range(operation.tensors)]


@pytest.mark.parametrize(("operation", "place"), TENSORS, ids=lambda given: getattr(given, "name", str(given)))
@pytest.mark.parametrize("cut", [lambda tensor: tensor[..., :-1].clone(), lambda tensor: tensor[:-1].clone()])
def test_what_fits_less_is_never_read_beyond_its_end(operation, place, cut):
    """It is refused where the reference refuses it, and else computed as it is there."""
    args = changed(arguments_of(operation), place, cut)
    try:
        expected = operation.reference(*args)
    except RuntimeError:
        for call in (operation, operation.op):
            with pytest.raises(RuntimeError):
                call(*args)
    else:
        close(operation(*args), expected)
        close(operation.op(*args), expected)


@every_operation
def test_an_empty_batch_gives_an_empty_batch(operation):
    args = arguments_of(operation)
    images = {"gated_residual": 4}.get(operation.name, 1)
    empty = (*(each[:0] for each in args[:images]), *args[images:])
    with torch.inference_mode():
        for found, other in zip(
            (operation(*empty), operation.op(*empty)), 2 * [operation.reference(*args)], strict=True
        ):
            close(found, [each[:0] for each in other] if isinstance(other, list) else other[:0])


def model() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    made = timm.create_model("convneur_m1", dims=(8, 16), depths=(1, 2), token_strides=(2, 1), memory_width=16).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made, torch.randn(2, 3, 48, 40).to(memory_format=torch.channels_last)


@built
@pytest.mark.parametrize("fused", [False, True])
def test_where_they_were_not_loaded_the_modules_run(fused, monkeypatch):
    made, images = model()
    with torch.inference_mode():
        if fused:
            for block in made.modules():
                if hasattr(block, "fuse"):
                    block.fuse()
        expected = made(images)
        calls = {}
        for operation in ops.OPERATIONS:
            monkeypatch.setattr(operation, "missing", "there is none")
            monkeypatch.setattr(operation, "kernel", lambda *_, name=operation.name: calls.setdefault(name))
            assert operation.why_not(*arguments_of(operation)) == "there is none"
        close(made(images), expected)
    assert not calls


def test_switched_off_by_the_environment():
    code = """
import torch
from convneur import ops
from tests.ops.test_decision import model
assert ops.why_not_kernel() == "kernels are switched off (CONVNEUR_KERNELS=0)"
for operation in ops.OPERATIONS:
    operation.kernel = None
made, images = model()
with torch.inference_mode():
    print(made(images).double().sum().item())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"CONVNEUR_KERNELS": "0"},
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    made, images = model()
    with torch.inference_mode():
        assert float(done.stdout) == pytest.approx(made(images).double().sum().item(), rel=1e-4)


@pytest.fixture
def copied(tmp_path):
    """The folder of operations, which a test may spoil, and how to load it."""
    folder = Path(_library.__file__).parent
    shutil.copytree(folder / "csrc", tmp_path / "csrc")
    for name in ("_library.py", "_kernels.so"):
        shutil.copy(folder / name, tmp_path)
    spec = util.spec_from_file_location("copied_library", tmp_path / "_library.py")
    assert spec is not None
    assert spec.loader is not None

    def load() -> ModuleType:
        module = util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return tmp_path, load


@built
def test_a_library_of_other_sources_is_refused(copied):
    """An update of the package in place does not build it again."""
    folder, load = copied
    assert load().MISSING is None
    with (folder / "csrc" / "vec.h").open("a") as file:
        file.write("\n")
    assert load().MISSING == "the CPU kernels were built from other sources; install ConvNeur again"


@built
def test_a_library_that_is_missing_or_of_another_machine(copied):
    folder, load = copied
    (folder / "_kernels.so").unlink()
    assert load().MISSING.startswith("the CPU kernels were not built; install a C compiler")
    (folder / "_kernels.so").write_bytes(b"\x7fELF of something else")
    assert load().MISSING.startswith("the CPU kernels cannot be loaded (")


@built
def test_a_processor_that_is_too_old(copied, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert copied[1]().MISSING == "the CPU kernels need AVX2, and PyTorch finds DEFAULT"


def test_private_names_of_pytorch_that_are_gone(monkeypatch):
    monkeypatch.delattr(torch._C._functorch, "peek_interpreter_stack")
    assert ops.why_not_kernel(x).startswith("this PyTorch is not known (")
