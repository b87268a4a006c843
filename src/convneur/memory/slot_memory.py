"""The default memory: slots that hold weighted means of values, written to their optimum in one step.

The formulas are in `convneur.ops.memory`, the derivation in docs/method.md.

Shape letters: B batch, H heads, N tokens, D memory width (of one head after the split), S = D slots of a head.
"""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor, nn

from convneur import ops
from convneur.memory.config import MemoryConfig
from convneur.memory.memory import Memory
from convneur.ops.memory import Slots, split_heads


class SlotMemory(Memory):
    """Slots that are written anew for every image: each token has a key, by which it is written and by which it reads.

    Keys, values and steps are projections of LayerNorm(tokens). What is written does not depend on the order of the
    tokens, and parts of an image may be written one after the other. The form is that of efficient attention (arXiv
    1812.01243) whose queries are its keys.

    Args:
        width: D, channels of a token; a multiple of the number of heads.
        config: Of state ``slots``.

    Raises:
        ValueError: If ``width`` is not a positive multiple of the number of heads.
    """

    def __init__(self, width: int, config: MemoryConfig | None = None) -> None:
        config = config if config is not None else MemoryConfig()
        if config.state != "slots":
            raise ValueError(f"state={config.state!r} is a memory of fast weights; use NeuralMemory, or state='slots'")
        super().__init__(width, config)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.to_keys = nn.Linear(width, width, bias=False)
        self.to_values = nn.Linear(width, width, bias=False)
        self.to_steps = nn.Linear(width, self.heads)

    @overload
    def forward(self, tokens: Tensor, state: Slots | None = None, return_state: Literal[False] = False) -> Tensor: ...

    @overload
    def forward(self, tokens: Tensor, state: Slots | None, return_state: Literal[True]) -> tuple[Tensor, Slots]: ...

    def forward(
        self, tokens: Tensor, state: Slots | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, Slots]:
        """Write the tokens, then read with them.

        Args:
            tokens: (B, N, D), in any order.
            state: What was written before; None for nothing.
            return_state: Also return what is written afterwards.

        Returns:
            Context (B, N, D), or context and state.

        Raises:
            ValueError: If ``tokens`` or ``state`` have another width, batch or number of dimensions.
        """
        self._check(tokens, state)
        inputs = self.inputs(tokens)
        if state is None and not return_state:
            return _joined(ops.memory.reference(*inputs)[0])
        slots = ops.memory.write_part(state, *inputs)
        context = _joined(ops.memory.read(slots.memory, inputs[0]))
        return (context, slots) if return_state else context

    def inputs(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys (B, H, N, S), values (B, H, N, D) and steps (B, H, N, 1) of tokens (B, N, D)."""
        tokens = self.norm(tokens)
        keys, values = (split_heads(to(tokens), self.heads) for to in (self.to_keys, self.to_values))
        return keys, values, split_heads(self.to_steps(tokens).sigmoid(), self.heads)

    def write(self, tokens: Tensor, slots: Slots | None = None) -> Slots:
        """Add tokens (B, N, D) to what was written before; nothing is read."""
        self.check_tokens(tokens)
        return ops.memory.write_part(slots, *self.inputs(tokens))

    def read(self, tokens: Tensor, written: Slots) -> Tensor:
        """What tokens (B, N, D) read from slots; nothing is written: (B, N, D)."""
        keys = split_heads(self.to_keys(self.norm(tokens)), self.heads)
        return _joined(ops.memory.read(written.memory, keys))

    def read_initial(self, tokens: Tensor) -> Tensor:
        """What tokens read before anything is written, which is nothing: zeros (B, N, D)."""
        self.check_tokens(tokens)
        return torch.zeros_like(tokens)

    def surprise(self, tokens: Tensor) -> Tensor:
        """How far what each token reads is from what it wrote, once all tokens are written.

        That is the mean over heads and channels of ``(M(k) - s v)^2``, k, v and s being key, value and step.

        Args:
            tokens: (B, N, D).

        Returns:
            (B, N).
        """
        self.check_tokens(tokens)
        keys, values, steps = self.inputs(tokens)
        answers, _ = ops.memory.reference(keys, values, steps)
        return (answers - steps * values).square().mean((1, 3))

    def _check(self, tokens: Tensor, state: Slots | None) -> None:
        self.check_tokens(tokens)
        if state is None:
            return
        head = self.width // self.heads
        expected = (tokens.shape[0], self.heads, head, head)
        if not isinstance(state, Slots) or state.memory.shape != expected or state.mass.shape != expected[:3]:
            raise ValueError(
                f"the state is of another memory or batch; this one needs slots of shape {expected}. "
                "Carry a state on with the memory and the batch that made it, or start with state=None"
            )


def _joined(heads: Tensor) -> Tensor:
    """(B, H, N, D) -> (B, N, H * D)."""
    return heads.transpose(1, 2).flatten(2)
