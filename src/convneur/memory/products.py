"""Products with shared weights, by the faster of PyTorch's two libraries.

On an x86 processor `torch.nn.functional.linear` in float32 goes to MKL, which uses half of what an AMD processor with
AVX-512 can do; oneDNN, which torch uses for convolutions, does not (``docs/results/speed.md``). So a ConvNeXt whose
pointwise maps are convolutions would outrun the same network written with linear layers. Here oneDNN multiplies.

Shape letters: N rows, D inputs, E outputs.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convneur.memory.packed import ONEDNN_AVAILABLE, Packed
from convneur.memory.plain import is_plain


def _about_processor() -> str:
    """What the system tells of the first one, or its name."""
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        with facts.open(encoding="utf-8", errors="replace") as file:
            return file.read(4096)  # a processor's are a thousand
    return platform.processor()


_PROCESSOR = _about_processor()
MKL_AT_HOME = "Intel" in _PROCESSOR or _PROCESSOR == "i386"
_ZEN_4 = "AuthenticAMD" in _PROCESSOR and re.search(r"cpu family\s*: 25\b", _PROCESSOR) is not None  # or 3
# Multiply-accumulates up to which MKL is at least as fast: oneDNN does more before it begins. They are fewer on Zen 5,
# whose AVX-512 goes whole. The same with gradients and without, so that a map gives the same to the last bit.
SMALL = 2**23 if MKL_AT_HOME or _ZEN_4 else 2**21
# Inputs or outputs up to which MKL is at least as fast with weight gradients: measured on Intel and on AMD's Zen 4.
NARROW = 128


class Linear(Packed, nn.Linear):
    """`torch.nn.Linear`, through `linear`; parameters, names and results are its own."""

    def _laid_out(self, weight: Tensor) -> Tensor:
        return _laid_out(weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., E)."""
        if self.packed is not None and self._infers(x):
            return _product(x, self.packed, self.bias)
        return linear(x, self.weight, self.bias)

    def then_gelu(self, x: Tensor, approximate: str = "none") -> Tensor:
        """GELU of what `forward` gives, in the same operation where that can be; for inference alone."""
        if torch.compiler.is_compiling() and _compiler_takes_ours(x, self.weight):
            return cast(Tensor, torch.ops.convneur.linear_gelu(x, self.weight, self.bias, approximate))
        if torch.compiler.is_compiling():
            return F.gelu(self(x), approximate=approximate)
        if self._infers(x):
            return _product_then_gelu(x, self.weight if self.packed is None else self.packed, self.bias, approximate)
        # A second map as large would cost more than the GELU itself.
        return torch.ops.aten.gelu_.default(self(x), approximate=approximate)

    def _infers(self, x: Tensor) -> bool:
        """Whether this is inference, and oneDNN serves."""
        return not (torch.compiler.is_compiling() or torch.is_grad_enabled()) and _onednn_serves(
            x, self.weight, self.bias
        )


class FixedLinear(Packed):
    """A linear map of numbers that do not learn, for inference alone; it is not in the state dict.

    Args:
        weight: (E, D).
        bias: (E,).
    """

    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        with torch.inference_mode(False):  # or it could not be part of a graph
            self.register_buffer("weight", weight.clone(memory_format=torch.contiguous_format), persistent=False)
            self.register_buffer("bias", bias.clone(), persistent=False)

    def _laid_out(self, weight: Tensor) -> Tensor:
        return _laid_out(weight)

    def forward(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """(..., D) -> (..., E), added to ``onto`` (..., E) in the same operation where that can be."""
        packed = None if torch.compiler.is_compiling() or torch.is_grad_enabled() else self.packed
        if packed is None or not _onednn_serves(x, self.weight, self.bias):
            made = linear(x, self.weight, self.bias)
            return made if onto is None else onto + made
        if onto is None:
            return _product(x, packed, self.bias)
        if onto.is_contiguous() and is_plain(onto) and onto.dtype is torch.float32:
            return cast(Tensor, _LINEAR_ADDED(x, onto, packed, self.bias, "add"))
        return onto + _product(x, packed, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``: `torch.nn.functional.linear` with the library chosen here.

    Args:
        x: (..., D).
        weight: (E, D).
        bias: (E,).

    Returns:
        (..., E).
    """
    if torch.compiler.is_compiling():
        return _compiled(x, weight, bias)
    if not _onednn_serves(x, weight, bias):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return _Product.apply(x, weight, bias)
    return _product(x, weight, bias)


def _onednn_serves(x: Any, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether this is a float32 product on an x86 processor, and not too small."""
    return (
        is_plain(x, weight)
        and x.numel() * weight.shape[0] >= SMALL
        and x.dtype is torch.float32
        and x.is_cpu
        and weight.dtype is torch.float32
        and (bias is None or bias.dtype is torch.float32)
        and x.ndim > 1
        and ONEDNN_AVAILABLE
        and not torch.is_autocast_enabled("cpu")
        and torch._C._get_mkldnn_enabled()
    )


def _laid_out(weight: Tensor) -> Tensor:
    return cast(Tensor, torch.ops.mkldnn._reorder_linear_weight(weight))


def _product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, then: tuple[str, list[float], str] = ("none", [], "")
) -> Tensor:
    return _LINEAR(x, weight, bias, *then)


def _product_then_gelu(x: Tensor, weight: Tensor, bias: Tensor | None, approximate: str) -> Tensor:
    if GELU_BY_ONEDNN and approximate == "none":
        return _product(x, weight, bias, ("gelu", [], approximate))
    return torch.ops.aten.gelu_.default(_product(x, weight, bias), approximate=approximate)


class _Product(torch.autograd.Function):
    """The product and its gradients, which are products, too; also of gradients, for those who go on from there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        return _gradients(linear, ctx, grad)


def _gradients(product: Callable[[Tensor, Tensor], Tensor], ctx: Any, grad: Tensor) -> Any:
    """Gradients of ``x``, ``weight`` and ``bias``, those that are asked for."""
    x, weight = ctx.saved_tensors
    grad_x = grad_weight = grad_bias = None
    # Of a second operand that is neither contiguous nor the transpose of such, as an expanded gradient may be, oneDNN
    # has slow code only.
    grad = grad.contiguous()
    if ctx.needs_input_grad[0]:
        grad_x = product(grad, weight.mT)
    if ctx.needs_input_grad[1]:
        grad_weight = weight_gradient(grad, x, product)
    if ctx.needs_input_grad[2]:
        grad_bias = grad.flatten(0, -2).sum(0)
    return grad_x, grad_weight, grad_bias


def weight_gradient(grad: Tensor, x: Tensor, product: Callable[[Tensor, Tensor], Tensor] = linear) -> Tensor:
    """Gradient (E, D) of the weight of a product of ``x`` (..., D) from that of its result (..., E), contiguous."""
    rows, inputs = grad.flatten(0, -2), x.contiguous().flatten(0, -2)
    # MKL takes transposed operands as they are. oneDNN lays them out anew, which narrow ones do not make up for.
    narrow = min(rows.shape[1], inputs.shape[1]) <= NARROW
    multiply = torch.mm if MKL_AT_HOME or narrow else lambda left, right: product(left, right.mT)
    # Either wants the larger of the two as its second.
    if rows.shape[1] > inputs.shape[1]:
        return multiply(inputs.mT, rows).mT
    return multiply(rows.mT, inputs)


_LINEAR: Any = torch.ops.mkldnn._linear_pointwise.default if ONEDNN_AVAILABLE else None
_LINEAR_ADDED: Any = torch.ops.mkldnn._linear_pointwise.binary if ONEDNN_AVAILABLE else None
# With AVX2 alone its GELU takes longer than torch's.
GELU_BY_ONEDNN = ONEDNN_AVAILABLE and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


# torch.compile would hand a product to MKL, too, and takes oneDNN's own operator for weights that are frozen only. So
# it is given operators of ours, which it leaves as they are.
_library = torch.library.Library("convneur", "DEF")
_library.define("linear(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor")
_library.define("linear_gelu(Tensor x, Tensor weight, Tensor? bias, str approximate) -> Tensor")
_library.impl("linear", _product, "CPU")
_library.impl("linear_gelu", _product_then_gelu, "CPU")
for _name in ("linear", "linear_gelu"):
    torch.library.register_fake(
        f"convneur::{_name}", lambda x, weight, *_: x.new_empty(*x.shape[:-1], len(weight)), lib=_library
    )
torch.library.register_autograd(
    "convneur::linear",
    lambda ctx, grad: _gradients(torch.ops.convneur.linear, ctx, grad),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[:2]),
    lib=_library,
)
# Older versions do not tell a compiler from an exporter, whose graphs must run without this package.
is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: True)


def _compiled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a compiler or exporter should see."""
    if _compiler_takes_ours(x, weight):
        return cast(Tensor, torch.ops.convneur.linear(x, weight, bias))
    return F.linear(x, weight, bias)


def _compiler_takes_ours(x: Tensor, weight: Tensor) -> bool:
    return (
        ONEDNN_AVAILABLE
        and not is_exporting()
        and x.device.type == "cpu"
        and x.dtype is torch.float32
        and weight.dtype is torch.float32
        and x.ndim > 1
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
    )
