"""The two forms of fast weights: how a memory is read, and the gradient of its write in closed form.

The derivation of both gradients is in docs/fast_weights.md. A set of fast weights is a tuple of tensors whose last two
dimensions are those of a matrix; every leading dimension broadcasts (heads; batch, heads; batch, heads, chunks).

Shape letters: B batch, H heads, N tokens, D width of one head.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Weights = tuple[Tensor, ...]

NORM_EPS = 1e-5  # torch's and titans-pytorch's LayerNorm default
KEY_EPS = 1e-6  # representable in float16, so that a key of zeros stays zero instead of becoming 0 / 0
MLP_EXPANSION = 4  # hidden width of the mlp state over its width (published)


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Context in which autocast leaves the device of ``x`` alone.

    The weights of an mlp state grow to some 100 within an image; their products leave the range of float16.
    """
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def _floats(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Half precision to float32; anything else as it is."""
    return tuple(t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in tensors)


class LinearState(nn.Module):
    """``M(x) = x W``: one D x D matrix per head, with L2-normalised keys.

    W starts at zero: a memory that nothing was written to answers nothing.
    """

    def __init__(self, heads: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(heads, dim, dim))

    def initial(self) -> Weights:
        """Learned M_0: ``W`` (H, D, D)."""
        return (self.weight,)

    def keys(self, keys: Tensor) -> Tensor:
        """L2-normalise keys (..., D), which bounds the step at which the write stays stable."""
        (wide,) = _floats(keys)  # a square of a half-precision number may be out of range
        return keys * ((wide * wide).sum(-1, keepdim=True) + KEY_EPS).rsqrt().to(keys.dtype)

    def read(self, weights: Weights, queries: Tensor) -> Tensor:
        """M(queries): (..., N, D) -> (..., N, D)."""
        return queries @ weights[0]

    def gradient(self, weights: Weights, keys: Tensor, values: Tensor, steps: Tensor) -> Weights:
        """Gradient of ``sum_i steps_i * mean_D (M(keys_i) - values_i)^2`` with respect to W, (..., D, D)."""
        error = keys @ weights[0] - values
        return (keys.mT @ (error * (steps * (2 / keys.shape[-1]))),)


class MlpState(nn.Module):
    """``M(x) = x + (1 + g) * LN(GELU(x W1) W2)``, the two-layer memory of Titans (arXiv 2501.00663, section 3.1)."""

    def __init__(self, heads: int, dim: int) -> None:
        super().__init__()
        hidden = MLP_EXPANSION * dim
        bound = math.sqrt(6 / (dim + hidden))  # Xavier uniform
        self.weight1 = nn.Parameter(torch.empty(heads, dim, hidden).uniform_(-bound, bound))
        self.weight2 = nn.Parameter(torch.empty(heads, hidden, dim).uniform_(-bound, bound))
        self.gain = nn.Parameter(torch.zeros(heads, 1, dim))

    def initial(self) -> Weights:
        """Learned M_0: ``W1`` (H, D, 4D), ``W2`` (H, 4D, D), ``g`` (H, 1, D)."""
        return (self.weight1, self.weight2, self.gain)

    def keys(self, keys: Tensor) -> Tensor:
        """Keys are used as they are."""
        return keys

    def read(self, weights: Weights, queries: Tensor) -> Tensor:
        """M(queries): (..., N, D) -> (..., N, D)."""
        with full_precision(queries):
            weight1, weight2, gain = _floats(*weights)
            (queries,) = _floats(queries)
            update = F.gelu(queries @ weight1) @ weight2
            return queries + (1.0 + gain) * F.layer_norm(update, update.shape[-1:], eps=NORM_EPS)

    def gradient(self, weights: Weights, keys: Tensor, values: Tensor, steps: Tensor) -> Weights:
        """Gradient of ``sum_i steps_i * mean_D (M(keys_i) - values_i)^2`` with respect to W1, W2 and g.

        Args:
            weights: Where the gradient is taken, (..., D, 4D), (..., 4D, D), (..., 1, D).
            keys: (..., N, D).
            values: (..., N, D).
            steps: (..., N, 1).

        Returns:
            Three tensors of the shapes of ``weights``, summed over the tokens.
        """
        with full_precision(keys):
            weight1, weight2, gain = _floats(*weights)
            keys, values, steps = _floats(keys, values, steps)
            pre = keys @ weight1
            hidden = F.gelu(pre)
            update = hidden @ weight2
            # torch's own gradients of GELU and LayerNorm are one pass each, and have gradients in turn.
            normed, mean, scale = torch.native_layer_norm(update, update.shape[-1:], None, None, NORM_EPS)
            grad_out = (keys + (1.0 + gain) * normed - values) * (steps * (2 / keys.shape[-1]))
            grad_gain = (grad_out * normed).sum(-2, keepdim=True)
            grad_update, _, _ = torch.ops.aten.native_layer_norm_backward(
                grad_out * (1.0 + gain), update, update.shape[-1:], mean, scale, None, None, [True, False, False]
            )
            grad_pre = torch.ops.aten.gelu_backward(grad_update @ weight2.mT, pre)
            return keys.mT @ grad_pre, hidden.mT @ grad_update, grad_gain


FAST_WEIGHTS: dict[str, type[LinearState] | type[MlpState]] = {"linear": LinearState, "mlp": MlpState}
