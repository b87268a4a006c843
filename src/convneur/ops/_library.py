"""CPU kernels and the operations that they implement: what is loaded, when it serves, and how PyTorch knows of it.

An operation is a formula in plain PyTorch (its reference) and a kernel that computes it in inference. The choice
between the two is made here and nowhere else: `why_not_kernel` for what is asked of all tensors, `Operation.why_not`
with what one kernel asks in addition.

The kernels are C behind ctypes (``csrc``), built when the package is installed (``hatch_build.py``). They use PyTorch's
threads: the OpenMP symbols are resolved in the process.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

NAMESPACE = "convneur"
AVX512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
LANES = 16 if AVX512 else 8  # floats of a vector, in the kernels that are compiled for both
FLOATS, INT, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float

_on = os.environ.get("CONVNEUR_KERNELS") != "0"
_keep = False


def _load() -> tuple[ctypes.CDLL | None, str | None]:
    """The library, or why there is none."""
    file, capability = Path(__file__).with_name("_kernels.so"), torch.backends.cpu.get_cpu_capability()
    sources = sorted((Path(__file__).parent / "csrc").glob("*.[ch]"))
    if not file.is_file():
        return None, "the CPU kernels were not built; install a C compiler (gcc) and then ConvNeur again"
    if not capability.startswith("AVX"):
        return None, f"the CPU kernels need AVX2, and PyTorch finds {capability}"
    try:
        library = ctypes.CDLL(str(file), mode=os.RTLD_NOW)  # now, or a missing OpenMP would end the process later
        library.convneur_digest.restype = ctypes.c_char_p
        built_from = library.convneur_digest().decode()
    except (OSError, AttributeError) as error:  # of another machine, or beside a PyTorch without OpenMP
        return None, f"the CPU kernels cannot be loaded ({error})"
    if built_from != hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest():
        return None, "the CPU kernels were built from other sources; install ConvNeur again"
    return library, None


LIBRARY, MISSING = _load()


def kernel_function(name: str, *arguments: Any) -> Any:
    """A C function that returns nothing, with the types of its arguments; None if there is no library."""
    if LIBRARY is None:
        return None
    function = getattr(LIBRARY, name)
    function.argtypes, function.restype = arguments, None
    return function


def why_not_kernel(*tensors: Any) -> str | None:
    """Why no kernel may serve these tensors (None among them is left out), in words; None if one may."""
    if not _on:
        return "kernels are switched off (CONVNEUR_KERNELS=0)"
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "the call is traced"
    try:  # what is asked here has no public name; should one be gone, the references take over, and say so
        if torch._C._len_torch_dispatch_stack():
            return "operations are recorded or counted"
        if torch._C._functorch.peek_interpreter_stack() is not None:
            return "a transform of torch.func is active"
        if forward_ad._current_level >= 0:
            return "forward-mode gradients are recorded"
    except AttributeError as error:
        return f"this PyTorch is not known ({error})"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    recorded = torch.is_grad_enabled()
    for tensor in tensors:
        if tensor is None:
            continue
        kind = type(tensor)
        if kind is not Tensor and kind is not nn.Parameter:
            return f"a {kind.__name__} is no plain tensor"
        if recorded and tensor.requires_grad:
            return "autograd records"
        if tensor.dtype is not torch.float32:
            return f"kernels compute in float32, and a tensor is {str(tensor.dtype).removeprefix('torch.')}"
        if not tensor.is_cpu or tensor.layout is not torch.strided:
            return f"a tensor is on {tensor.device}, {str(tensor.layout).removeprefix('torch.')}"
        if tensor.is_neg():
            return "a tensor is a negated view"
        if not tensor.data_ptr():
            return "a tensor is empty, or its memory was freed"
    return None


@contextmanager
def use_kernels(on: bool) -> Iterator[None]:
    """Switch all kernels on or off within the context."""
    global _on
    before, _on = _on, on
    try:
        yield
    finally:
        _on = before


@contextmanager
def keep_operations() -> Iterator[None]:
    """Let what is traced within the context call the operations by name, whoever implements them later.

    Nothing is asked about sizes, layouts or precision then, so no answer becomes part of the graph.
    """
    global _keep
    before, _keep = _keep, True
    try:
        yield
    finally:
        _keep = before


class Operation:
    """A named operation, ``torch.ops.convneur.NAME``.

    Args:
        schema: As `torch.library.define` takes it; tensors stand before all other arguments.
        reference: The formula. Gradients, tangents, vmap, autocast, shapes and counts of FLOPs are taken from it.
        kernel: The same arguments in float32 on a CPU, in inference; the same memory format comes out.
        suits: The same arguments -> why the kernel does not take these, or None.
        missing: Why there is no kernel at all, or None.
    """

    def __init__(
        self,
        schema: str,
        reference: Callable[..., Any],
        kernel: Callable[..., Any],
        suits: Callable[..., str | None],
        missing: str | None = MISSING,
    ) -> None:
        self.name, _, rest = schema.partition("(")
        self.tensors = rest.partition("->")[0].count("Tensor")
        self.reference, self.kernel, self.suits, self.missing = reference, kernel, suits, missing
        if not hasattr(getattr(torch.ops, NAMESPACE), self.name):  # by another copy, or before this was loaded again
            self._register(schema)
        self.op = getattr(getattr(torch.ops, NAMESPACE), self.name).default

    def unavailable(self) -> str | None:
        """Why the kernel serves no arguments at all as things stand, in words; None if it may serve some."""
        return self.missing or why_not_kernel()

    def why_not(self, *args: Any) -> str | None:
        """Why the kernel does not serve these arguments, in words; None if it does."""
        return self.missing or why_not_kernel(*args[: self.tensors]) or self.suits(*args)

    def by_kernel(self, *args: Any) -> Any:
        """What the kernel gives, or None if it does not serve; the operation by name within `keep_operations`."""
        if _keep:
            return self.op(*args)
        # As in `why_not`, without another call: this is where every forward passes.
        if self.missing or why_not_kernel(*args[: self.tensors]) or self.suits(*args):
            return None
        return self.kernel(*args)

    def __call__(self, *args: Any) -> Any:
        """What the kernel gives, or else the reference."""
        found = self.by_kernel(*args)
        return self.reference(*args) if found is None else found

    def _compute(self, *args: Any) -> Any:
        return self.kernel(*args) if self.why_not(*args) is None else self.reference(*args)

    def _register(self, schema: str) -> None:
        # "FRAGMENT" may be opened more than once. Who drops a library drops what was registered with it.
        library = torch.library.Library(NAMESPACE, "FRAGMENT")
        setattr(getattr(torch.ops, NAMESPACE), f"_library_of_{self.name}", library)
        library.define(schema)
        qualified, reference = f"{NAMESPACE}::{self.name}", self.reference

        def autograd(*args: Any) -> Any:
            # The reference where a gradient or a tangent is wanted. `torch.library.register_autograd` would give
            # neither tangents nor second derivatives.
            tensors = [each for each in args[: self.tensors] if each is not None]
            if forward_ad._current_level >= 0 or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
                return reference(*args)
            with torch._C._AutoDispatchBelowAutograd():
                return self.op(*args)

        def flops(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
            with FlopCounterMode(display=False) as counter:
                reference(*(each.to("meta") if isinstance(each, Tensor) else each for each in args), **kwargs)
            return int(counter.get_total_flops())

        library.impl(self.name, self._compute, "CPU")
        library.impl(self.name, reference, "AutocastCPU")
        # Under vmap each operation of the reference is batched. A rule of `torch.library.register_vmap` cannot do that:
        # PyTorch ends in an internal error where it calls vmap again.
        for key in ("CUDA", "MPS", "AutocastCUDA", "FuncTorchBatched"):
            library.impl(self.name, reference, key)
        library.impl(self.name, autograd, "Autograd")
        torch.library.register_fake(qualified, reference, lib=library)
        register_flop_formula(getattr(getattr(torch.ops, NAMESPACE), self.name), get_raw=True)(flops)
