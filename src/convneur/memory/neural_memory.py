"""Memories of fast weights (linear, mlp): tokens are written by gradient descent, in chunks if asked for, then read.

Shape letters: B batch, H heads, N tokens, T chunks, L tokens per chunk, D memory width (of one head after the split).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convneur.memory.chunks import Rates, advance, chunk_mean
from convneur.memory.config import MemoryConfig
from convneur.memory.fast_weights import FAST_WEIGHTS, Weights
from convneur.memory.memory import Memory
from convneur.memory.norm import RMSNorm
from convneur.ops.memory import split_heads


class MemoryState(NamedTuple):
    """A memory between two calls, to be carried from tile to tile or from frame to frame.

    Attributes:
        weights: M, the fast weights, each (B, H, rows, columns).
        momentum: S, of the same shapes.
        pending: (B, P, D) tokens of the chunk that is not written yet. A causal read writes a chunk when a token of
            the next one arrives, so it keeps 1 to ``chunk_size`` tokens; a global read keeps none.
    """

    weights: Weights
    momentum: Weights
    pending: Tensor


class _Writes(NamedTuple):
    """Tokens as the write sees them: keys and values (B, H, N, D), steps (B, H, N, 1), rates per chunk."""

    keys: Tensor
    values: Tensor
    steps: Tensor
    rates: Rates

    def chunk(self, index: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, values and steps of one chunk."""
        part = slice(index * size, (index + 1) * size)
        return self.keys[:, :, part], self.values[:, :, part], self.steps[:, :, part]


class NeuralMemory(Memory):
    """Fast weights that are rewritten for every image: write, then read.

    With z the tokens, keys and values are projections of RMSNorm(z), queries of a second RMSNorm(z). The write is
    gradient descent with momentum and decay on how well the memory predicts each value from its key; the gradient is
    written out in closed form, so forward never calls autograd and works under ``inference_mode``, autocast,
    ``torch.compile`` and ``torch.export``. Every sample has a memory of its own.

    Source: Titans (arXiv 2501.00663, section 3.1) and ConvNeur (arXiv 2603.19567); docs/fast_weights.md has the
    derivation.

    Args:
        width: D, channels of a token; a multiple of the number of heads.
        config: All other options.

    Raises:
        ValueError: If ``width`` is not a positive multiple of the number of heads.
    """

    def __init__(self, width: int, config: MemoryConfig | None = None) -> None:
        config = config if config is not None else MemoryConfig(state="linear")
        if config.state == "slots":
            raise ValueError("state='slots' is no memory of fast weights; use SlotMemory, or state='linear'")
        super().__init__(width, config)
        self.store_norm = RMSNorm(width)
        self.retrieve_norm = RMSNorm(width)
        self.to_queries = nn.Linear(width, width, bias=False)
        self.to_keys = nn.Linear(width, width, bias=False)
        self.to_values = nn.Linear(width, width, bias=False)
        # Step of a token, momentum and decay of a chunk, one each per head. In one map: with a single chunk there is
        # no momentum to carry, and its rows then get a gradient of zero rather than none, which DDP would refuse.
        self.to_rates = nn.Linear(width, self.heads * (1 + config.momentum + config.decay))
        self.fast = FAST_WEIGHTS[config.state](self.heads, width // self.heads)

    def initial_state(self, batch_size: int) -> MemoryState:
        """State in which nothing was written yet, for ``batch_size`` samples."""
        weights = tuple(w.expand(batch_size, *w.shape) for w in self.fast.initial())
        pending = weights[0].new_zeros(batch_size, 0, self.width)
        return MemoryState(weights, tuple(torch.zeros_like(w) for w in weights), pending)

    @overload
    def forward(
        self, tokens: Tensor, state: MemoryState | None = None, return_state: Literal[False] = False
    ) -> Tensor: ...

    @overload
    def forward(
        self, tokens: Tensor, state: MemoryState | None, return_state: Literal[True]
    ) -> tuple[Tensor, MemoryState]: ...

    def forward(
        self, tokens: Tensor, state: MemoryState | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, MemoryState]:
        """Write the tokens and read with them.

        Args:
            tokens: (B, N, D), in reading order.
            state: Memory to go on from; fresh if None.
            return_state: Also return the memory as it is afterwards.

        Returns:
            Context (B, N, D), or context and state.

        Raises:
            ValueError: If ``tokens`` or ``state`` have another width, batch or number of dimensions.
        """
        self._check(tokens, state)
        read = self._causal if self.config.read == "causal" else self._global
        context, last = read(tokens, state, return_state)
        context = context.transpose(1, 2).flatten(2)
        return context if last is None else (context, last)

    def read(self, tokens: Tensor, written: Weights) -> Tensor:
        """What fast weights say about tokens, (B, N, D) -> (B, N, D); nothing is written."""
        return self.fast.read(written, self._queries(tokens)).transpose(1, 2).flatten(2)

    def read_initial(self, tokens: Tensor) -> Tensor:
        """What tokens read from M_0, before anything is written: (B, N, D) -> (B, N, D)."""
        self.check_tokens(tokens)
        return self.read(tokens, self.fast.initial())

    def surprise(self, tokens: Tensor) -> Tensor:
        """How far off the memory is about each token when it is written: the inner loss, without its step.

        That is the mean over heads and channels of ``(M(k) - v)^2``, M being where the write takes its gradient: M_0
        (``anchor="initial"``), or the memory that the chunks before left (``anchor="previous"``).

        Args:
            tokens: (B, N, D), in reading order.

        Returns:
            (B, N); NaN for tokens that are never written, which are those of the last chunk of a causal read.
        """
        self.check_tokens(tokens)
        count, size = tokens.shape[1], self._chunk_size(tokens.shape[1])
        written = (count - 1) // size * size if self.config.read == "causal" else count
        if not written:
            return tokens.new_full(tokens.shape[:2], torch.nan)
        writes = self._writes(self.store_norm(tokens[:, :written]), size)
        memory, momentum, answers = self.fast.initial(), None, []
        if self.config.anchor == "initial":
            answers.append(self.fast.read(memory, writes.keys))
        else:
            for index in range(-(-written // size)):
                chunk = writes.chunk(index, size)
                answers.append(self.fast.read(memory, chunk[0]))
                memory, momentum = advance(memory, momentum, self.fast.gradient(memory, *chunk), writes.rates.at(index))
        loss = (torch.cat(answers, 2) - writes.values).square().mean((1, 3))
        return F.pad(loss, (0, count - written), value=torch.nan)

    def _causal(
        self, tokens: Tensor, state: MemoryState | None, return_state: bool
    ) -> tuple[Tensor, MemoryState | None]:
        """Chunk t reads M_(t-1). The last chunk is read from and not written; it becomes ``pending``."""
        batch, count = tokens.shape[:2]
        size = self._chunk_size(count)
        stored = tokens if state is None else torch.cat([state.pending, tokens], 1)
        written = (stored.shape[1] - 1) // size
        memories = [self.fast.initial() if state is None else state.weights]
        momentum = None if state is None else state.momentum
        if written:
            writes = self._writes(self.store_norm(stored[:, : written * size]), size)
            if self.config.anchor == "initial":
                chunked = (x.unflatten(2, (written, size)) for x in (writes.keys, writes.values, writes.steps))
                together = self.fast.gradient(tuple(w.unsqueeze(-3) for w in self.fast.initial()), *chunked)
            for index in range(written):
                if self.config.anchor == "initial":
                    gradient = tuple(g[:, :, index] for g in together)
                else:
                    gradient = self.fast.gradient(memories[-1], *writes.chunk(index, size))
                weights, momentum = advance(memories[-1], momentum, gradient, writes.rates.at(index))
                memories.append(weights)
        queries = self._queries(tokens)
        if written:
            # One batched read of all chunks: queries are padded to whole chunks, and the padding's answers cut off.
            before = stored.shape[1] - count
            after = (written + 1) * size - stored.shape[1]
            queries = F.pad(queries, (0, 0, before, after)).unflatten(2, (written + 1, size))
            memories[0] = tuple(w.expand(batch, *w.shape[-3:]) for w in memories[0])
            context = self.fast.read(tuple(torch.stack(w, 2) for w in zip(*memories, strict=True)), queries)
            context = context.flatten(2, 3)[:, :, before : before + count]
        else:
            context = self.fast.read(memories[0], queries)
        if not return_state:
            return context, None
        fresh = self.initial_state(batch)
        return context, MemoryState(
            weights=memories[-1] if written or state is not None else fresh.weights,
            momentum=momentum if momentum is not None else fresh.momentum,
            pending=stored[:, written * size :],
        )

    def _global(
        self, tokens: Tensor, state: MemoryState | None, return_state: bool
    ) -> tuple[Tensor, MemoryState | None]:
        """Every chunk is written, the last one as short as it is; then all tokens read the final memory."""
        size = self._chunk_size(tokens.shape[1])
        chunks = -(-tokens.shape[1] // size)
        writes = self._writes(self.store_norm(tokens), size, carries=chunks > 1 or state is not None)
        initial = self.fast.initial()
        weights = state.weights if state is not None else initial
        momentum = state.momentum if state is not None else None
        for index in range(chunks):
            anchor = initial if self.config.anchor == "initial" else weights
            gradient = self.fast.gradient(anchor, *writes.chunk(index, size))
            weights, momentum = advance(weights, momentum, gradient, writes.rates.at(index))
        context = self.fast.read(weights, self._queries(tokens))
        if not return_state:
            return context, None
        assert momentum is not None  # something was written
        return context, MemoryState(weights, momentum, tokens[:, :0])

    def _writes(self, normed: Tensor, size: int, carries: bool = True) -> _Writes:
        """Project normalised tokens (B, N, D) for the write in chunks of ``size``; the last chunk may be shorter.

        Without chunks before that it carries on from, there is no momentum.
        """
        logits = self.to_rates(normed)
        scale: float | Tensor = 1.0
        if self.config.reference_length is not None:
            scale = self._loss_scale(normed, size, self.config.reference_length)
        rates = Rates(None, None)
        if self.config.momentum or self.config.decay:
            rates = self.rates(chunk_mean(logits[..., self.heads :], size), carries)
        return _Writes(*self.write_inputs(normed, logits, scale), rates)

    def write_inputs(self, normed: Tensor, logits: Tensor, scale: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What normalised tokens (B, N, D) write: keys, values (B, H, N, D) and steps (B, H, N, 1), times ``scale``."""
        steps = self.config.max_step * scale * logits[..., : self.heads].sigmoid()
        return (
            self.fast.keys(split_heads(self.to_keys(normed), self.heads)),
            split_heads(self.to_values(normed), self.heads),
            steps.transpose(1, 2).unsqueeze(-1),
        )

    def rates(self, means: Tensor, carries: bool) -> Rates:
        """Rates of chunks from the means of their logits, (B, T, 0 to 2 H); no momentum unless one ``carries`` on."""
        means, momentum, keep = means.transpose(1, 2), None, None
        if self.config.momentum and carries:
            momentum = means[:, : self.heads].sigmoid()
        if self.config.decay:
            keep = (-means[:, -self.heads :]).sigmoid()  # 1 - sigmoid(x)
        return Rates(momentum, keep)

    @staticmethod
    def _loss_scale(tokens: Tensor, size: int, reference: int) -> float | Tensor:
        """What makes a chunk of any length write as one of ``reference`` tokens: a number, or (N, 1) per token."""
        count = tokens.shape[1]
        whole = count // size * size
        if whole == count or not whole:
            return reference / min(size, count)
        return torch.cat(
            [
                tokens.new_full((whole, 1), reference / size),
                tokens.new_full((count - whole, 1), reference / (count - whole)),
            ]
        )

    def _chunk_size(self, count: int) -> int:
        return self.config.chunk_size if self.config.chunk_size is not None else count

    def _queries(self, tokens: Tensor) -> Tensor:
        """What tokens (B, N, D) ask the memory, (B, H, N, D)."""
        return split_heads(self.to_queries(self.retrieve_norm(tokens)), self.heads)

    def _check(self, tokens: Tensor, state: MemoryState | None) -> None:
        self.check_tokens(tokens)
        if state is None:
            return
        if state.pending.shape[0] != tokens.shape[0]:
            raise ValueError(
                f"the state is of a batch of {state.pending.shape[0]} and the tokens of {tokens.shape[0]}; "
                "carry a state on with the batch that made it, or start with state=None"
            )
        expected = [(tokens.shape[0], *w.shape) for w in self.fast.initial()]
        if state.pending.shape[-1] != self.width or [tuple(w.shape) for w in state.weights] != expected:
            raise ValueError(
                f"the state is of another memory (width {state.pending.shape[-1]}, weights "
                f"{[tuple(w.shape) for w in state.weights]}); this one needs width {self.width}, weights {expected}"
            )
