"""Operations with more than one implementation: the formula in plain PyTorch, and a CPU kernel of it."""

from convneur.ops import memory
from convneur.ops._library import Operation, keep_operations, use_kernels, why_not_kernel
from convneur.ops.gated_residual import gated_residual
from convneur.ops.global_branch import global_branch
from convneur.ops.linear import linear
from convneur.ops.local_branch import local_branch

OPERATIONS = (linear, global_branch, local_branch, gated_residual)

__all__ = [
    "OPERATIONS",
    "Operation",
    "gated_residual",
    "global_branch",
    "keep_operations",
    "linear",
    "local_branch",
    "memory",
    "use_kernels",
    "why_not_kernel",
]
