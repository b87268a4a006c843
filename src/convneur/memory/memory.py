"""What every memory is: tokens of an image are written into a state, and every token reads that state.

Shape letters: B batch, N tokens, D memory width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from convneur.memory.config import MemoryConfig


class Memory(nn.Module):
    """Base of the memories; `convneur.memory.make_memory` gives the one that a configuration describes.

    A memory takes tokens (B, N, D) and gives a context (B, N, D). With ``return_state=True`` it also gives its state,
    which the next call may go on from: ``memory(tokens, state, return_state)``.

    Args:
        width: D, channels of a token; a multiple of the number of heads.
        config: All other options.

    Raises:
        ValueError: If ``width`` is not a positive multiple of the number of heads.
    """

    def __init__(self, width: int, config: MemoryConfig) -> None:
        super().__init__()
        if width < 1 or width % config.num_heads:
            raise ValueError(f"width={width} does not split into {config.num_heads} heads; use a multiple of it")
        self.width = width
        self.config = config
        self.heads = config.num_heads

    def extra_repr(self) -> str:
        """Width and options, for ``print``."""
        return f"width={self.width}, {self.config}"

    def read(self, tokens: Tensor, written: Any) -> Tensor:
        """What tokens (B, N, D) read from what was written; nothing is written: (B, N, D)."""
        raise NotImplementedError

    def read_initial(self, tokens: Tensor) -> Tensor:
        """What tokens read before anything is written: (B, N, D) -> (B, N, D)."""
        raise NotImplementedError

    def surprise(self, tokens: Tensor) -> Tensor:
        """How far off the memory is about each token, by its inner objective: (B, N, D) -> (B, N)."""
        raise NotImplementedError

    def check_tokens(self, tokens: Tensor) -> None:
        """Refuse tokens that are not (B, N, D) with N of at least 1.

        Raises:
            ValueError: If they are not.
        """
        if tokens.ndim != 3 or tokens.shape[-1] != self.width:
            raise ValueError(
                f"tokens of shape {tuple(tokens.shape)} do not fit; "
                f"give (batch, tokens, {self.width}), the width of this memory"
            )
        if tokens.shape[1] == 0:
            raise ValueError("no tokens given; give at least one")
