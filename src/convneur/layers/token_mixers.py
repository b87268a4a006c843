"""What lets the tokens of an image know of each other: the neural memory, and what others have put in its place.

All take the tokens (B, N, D) of an h x w grid and give a context (B, N, D), so that each fits the same global branch
and they can be compared. Those that timm has are timm's.

Shape letters: B batch, N = hw tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from timm.layers import Attention, Mlp, create_attn
from torch import Tensor, nn

from convneur.memory import MemoryConfig, make_memory

TokenMixerKind = Literal["memory", "pointwise", "se", "cbam", "non_local", "attention", "rwkv", "titans"]
TOKEN_MIXERS = get_args(TokenMixerKind)


def make_token_mixer(kind: str, width: int, memory: MemoryConfig | None = None) -> nn.Module:
    """What reads tokens of ``width``. A `Memory` takes the tokens alone, all others ``(tokens, (h, w))``.

    Raises:
        ValueError: If ``width`` cannot be split into heads.
        ImportError: If ``titans`` is asked for and its package is missing.
    """
    if kind == "memory":
        return make_memory(width, memory)
    others: dict[str, Callable[[], nn.Module]] = {
        "pointwise": lambda: Pointwise(width, memory),
        "se": lambda: OnMap("se", width),
        "cbam": lambda: OnMap("cbam", width),
        "non_local": lambda: OnMap("nl", width),
        "attention": lambda: SelfAttention(width),
        "rwkv": lambda: BidirectionalRWKV(width),
        "titans": lambda: Titans(width),
    }
    return others[kind]()


class Pointwise(nn.Module):
    """A control: as many parameters as the memory, and nothing global. An MLP sees each token by itself."""

    def __init__(self, width: int, memory: MemoryConfig | None = None) -> None:
        super().__init__()
        parameters = sum(p.numel() for p in make_memory(width, memory).parameters())
        self.mlp = Mlp(width, max(1, round((parameters - width) / (2 * width + 1))))

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        return self.mlp(tokens)


class OnMap(nn.Module):
    """One of timm's attention modules for feature maps, by its name in ``timm.layers.create_attn``, on tokens."""

    def __init__(self, name: str, width: int) -> None:
        super().__init__()
        self.module: Any = create_attn(name, width)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        return self.module(tokens.mT.unflatten(2, size)).flatten(2).mT


class SelfAttention(nn.Module):
    """Multi-head self-attention after a LayerNorm, without positions: timm's, as in a ViT block."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads=heads, qkv_bias=True)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        return self.attention(self.norm(tokens))


class BidirectionalRWKV(nn.Module):
    """The spatial mix of Vision-RWKV (arXiv 2403.02308) without its shift of neighbours: a weighted mean over the
    sequence whose weights fall with the distance, per channel, gated by the token itself; linear in N.

    Token t sums ``exp(k_i - w (|t - i| - 1) / N) v_i`` over all others and ``exp(k_t + u) v_t``, over the sum of these
    weights. The decay is relative to the length, so its exponent stays within w, and both directions are sums that
    need no loop.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.to_receptance, self.to_keys, self.to_values, self.out = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        self.decay = nn.Parameter(torch.linspace(-2.0, 2.0, width))  # logarithm of w
        self.bonus = nn.Parameter(torch.zeros(width))  # u

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        tokens = self.norm(tokens)
        keys, values = self.to_keys(tokens).float(), self.to_values(tokens).float()
        return self.out(self.to_receptance(tokens).sigmoid() * self._mean(keys, values).to(tokens))

    def _mean(self, keys: Tensor, values: Tensor) -> Tensor:
        length = keys.shape[1]
        weights = (keys - keys.amax(1, keepdim=True)).exp()
        both = torch.cat([weights * values, weights], -1)  # sums for numerator and denominator at once
        step = self.decay.exp().clamp(max=60).repeat(2) / length  # float32 holds exp(60), and no weight falls further
        fall = (step * torch.arange(length, device=keys.device, dtype=keys.dtype)[:, None]).exp()  # (N, 2D)
        before = (both * fall).cumsum(1) / fall  # sum over i <= t of exp(-w (t - i) / N)
        after = (both / fall).flip(1).cumsum(1).flip(1) * fall  # the same over i >= t
        others = (before + after - 2 * both) * step.exp()
        total, weight = (others + both * self.bonus.exp().repeat(2)).chunk(2, -1)
        return total / weight


class Titans(nn.Module):
    """The memory of titans-pytorch as it is published there (chunks of its default length), an optional dependency."""

    def __init__(self, width: int, chunk_size: int = 196) -> None:
        super().__init__()
        try:
            from titans_pytorch import NeuralMemory as TitansMemory
        except ImportError as error:
            raise ImportError("token_mixer='titans' needs another package; pip install titans-pytorch") from error
        self.memory = TitansMemory(width, chunk_size=chunk_size)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        return self.memory(tokens)[0]
