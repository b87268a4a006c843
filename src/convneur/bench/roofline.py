"""The least time a model can take on this machine: its dense operations at measured rates, all else for nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from convneur.bench.throughput import times_in_turn

Work = list[tuple[int, int]]  # floating-point operations and bytes of each dense operation


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second, at best.

    Attributes:
        flops: Floating-point operations in a large product of matrices, by the faster of the libraries torch has.
        bytes: Read and written in a copy that leaves the cache.
    """

    flops: float
    bytes: float

    def seconds(self, work: Work) -> float:
        """Seconds: each operation computes or moves its operands, whichever takes longer."""
        return sum(max(flops / self.flops, moved / self.bytes) for flops, moved in work)


def measured_rates(device: torch.device, dtype: torch.dtype, side: int = 1024, megabytes: int = 256) -> Rates:
    """Rates of a device, the fastest of several tries."""
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    source = torch.zeros(megabytes * 2**20, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    products: list[Callable[[], object]] = [lambda: left @ right]
    if device.type == "cpu" and dtype == torch.float32 and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        # oneDNN: here torch takes MKL, which may be half as fast.
        products.append(lambda: torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], ""))
    steps = {f"product {number}": step for number, step in enumerate(products)}
    steps["copy"] = lambda: target.copy_(source)
    with torch.inference_mode():
        seconds = times_in_turn(steps, device)
    copying = min(seconds.pop("copy"))
    return Rates(2 * side**3 / min(min(times) for times in seconds.values()), 2 * len(source) / copying)


def dense_work(build: Callable[[], nn.Module], shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Work:
    """Operations and bytes of every convolution and product of matrices in a forward pass; nothing is computed.

    Args:
        build: Creates the model.
        shape: Of the images, (B, C, H, W).
        dtype: Of weights and images.
    """
    with torch.device("meta"):
        model, images = build().eval().to(dtype), torch.empty(shape, dtype=dtype)
    with torch.no_grad(), _Dense() as counted:
        model(images)
    return counted.work


class _Dense(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.work: Work = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            moved = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            self.work.append((count(*args, **kwargs, out_val=out), moved))
        return out
