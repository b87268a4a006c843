"""Candidates for the write and read of the memory, as token mixers of the ablations: plain PyTorch, no kernels.

All write one state per image from its tokens, in closed form, at a cost linear in N, and every token reads that state.

Shape letters: B batch, H heads, N tokens, S slots of a head, D width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from convneur.ops.memory import split_heads


class Slots(nn.Module):
    """A memory of S slots per head: each keeps a weighted mean of values, and a token reads a mixture of slots.

    With a_ij the weight of token i in slot j, the write is the exact minimiser of ``sum_i a_ij |M_j - v_i|^2`` for each
    slot, so one step writes it to its optimum. The form is that of efficient attention (arXiv 1812.01243).

    Args:
        width: Of the tokens, H D.
        heads: H.
        slots: S; D if not given.
        sharpness: Factor of the logits of both softmaxes.
        step: Where the step of a token is: a factor of its ``value``, or of its weight before these are normalised.
        competing: Tokens choose among slots (softmax over S, then divided by the sum over N), rather than slots among
            tokens (softmax over N).
        start: Learn M_0, which counts like one more token.
        queries: Have a map of their ``own``, one that starts as a ``copy`` of the keys', or are the ``keys``.
    """

    def __init__(
        self,
        width: int,
        heads: int = 4,
        slots: int | None = None,
        sharpness: float = 3.0,
        step: str = "value",
        competing: bool = False,
        start: bool = False,
        queries: Literal["own", "copy", "keys"] = "own",
    ) -> None:
        super().__init__()
        slots = slots or width // heads
        self.heads, self.sharpness, self.step, self.competing = heads, sharpness, step, competing
        self.norm = nn.LayerNorm(width)
        self.to_keys = nn.Linear(width, heads * slots, bias=False)
        self.to_queries = nn.Linear(width, heads * slots, bias=False) if queries != "keys" else None
        if queries == "copy" and self.to_queries is not None:
            self.to_queries.load_state_dict(self.to_keys.state_dict())
        self.to_values = nn.Linear(width, width, bias=False)
        self.to_steps = nn.Linear(width, heads)
        self.start = nn.Parameter(torch.zeros(heads, slots, width // heads)) if start else None
        self.start_logit = nn.Parameter(torch.zeros(heads, slots)) if start else None

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, H D) -> (B, N, H D)."""
        tokens = self.norm(tokens)
        keys = self.to_keys(tokens)
        queries = keys if self.to_queries is None else self.to_queries(tokens)
        keys, queries, values = (split_heads(x, self.heads) for x in (keys, queries, self.to_values(tokens)))
        steps = split_heads(self.to_steps(tokens), self.heads)  # (B, H, N, 1)
        if self.step == "value":
            values = values * steps.sigmoid()
        memory = self._write(self.sharpness * keys, values, steps)
        read = (self.sharpness * queries).softmax(-1) @ memory
        return read.transpose(1, 2).flatten(2)

    def _write(self, logits: Tensor, values: Tensor, steps: Tensor) -> Tensor:
        """Logits (B, H, N, S), values (B, H, N, D), logits of the steps (B, H, N, 1) -> M (B, H, S, D)."""
        if self.competing:
            logits = logits.log_softmax(-1)
        if self.step == "weight":
            logits = logits + nn.functional.logsigmoid(steps)
        if self.start is not None and self.start_logit is not None:
            batch = logits.shape[0]
            logits = torch.cat([self.start_logit[None, :, None].expand(batch, -1, -1, -1), logits], 2)
            # M_0 of slot j counts in slot j alone, so it is added after the tokens' product.
            weights = logits.softmax(2)
            return weights[:, :, 1:].mT @ values + weights[:, :, :1].mT * self.start
        return logits.softmax(2).mT @ values


class Ridge(nn.Module):
    """Ridge regression of values on keys, solved per head: the linear memory written to its optimum, with a bias."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.to_queries, self.to_keys, self.to_values = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.to_steps = nn.Linear(width, heads)
        self.penalty = nn.Parameter(torch.full((heads, 1, 1), -2.0))

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, H D) -> (B, N, H D)."""
        tokens = self.norm(tokens)
        queries, keys, values = (
            split_heads(to(tokens), self.heads) for to in (self.to_queries, self.to_keys, self.to_values)
        )
        keys, queries = (torch.nn.functional.pad(x, (0, 1), value=1.0) for x in (keys, queries))
        weights = split_heads(self.to_steps(tokens), self.heads).sigmoid() / tokens.shape[1]
        gram = keys.mT @ (weights * keys) + self.penalty.exp() * torch.eye(keys.shape[-1], device=tokens.device)
        memory = torch.linalg.solve(gram, keys.mT @ (weights * values))
        return (queries @ memory).transpose(1, 2).flatten(2)


PROTOTYPES: dict[str, Callable[[int], nn.Module]] = {
    "slots": Slots,
    "slots_weight": partial(Slots, step="weight"),
    "slots_start": partial(Slots, step="weight", start=True),
    "slots_competing": partial(Slots, step="weight", competing=True),
    "slots_copied": partial(Slots, queries="copy"),
    "slots_competing_one_map": partial(Slots, step="weight", competing=True, queries="keys"),
    "slots_sharp": partial(Slots, sharpness=6.0),
    "slots_24": partial(Slots, slots=24),
    "slots_8_heads": partial(Slots, heads=8, slots=12),
    "ridge": Ridge,
}
