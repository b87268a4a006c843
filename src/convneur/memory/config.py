"""What a neural memory is made of: every option of the method in one small frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args, get_type_hints

StateKind = Literal["slots", "linear", "mlp"]
ReadKind = Literal["global", "causal"]
AnchorKind = Literal["initial", "previous"]
# Steps of all tokens of a chunk together, up to which descent from chunk to chunk stays bounded for an mlp state:
# 12,000 tokens of widths 8, 80 and 160 were bounded at 4 and not at 10, whether tokens are alike or not.
LONGEST_STEP = 4.0


@dataclass(frozen=True)
class MemoryConfig:
    """Options of a memory. The defaults are those of the ``convneur_m*`` models.

    Attributes:
        state: What is written. ``slots``: weighted means of values, in `SlotMemory`; it has one option more, ``heads``.
            The others are fast weights, in `NeuralMemory`. ``linear``: ``M(x) = x W`` per head with L2-normalised keys.
            ``mlp``: ``M(x) = x + (1 + g) * LN(GELU(x W1) W2)``, the memory of Titans and of the paper.
        read: ``global``: write every chunk, then every token reads the final memory. ``causal``: a token of chunk t
            reads the memory as chunk t - 1 left it (published).
        anchor: Where the gradient of the write is taken. ``initial``: at the learned M_0, all chunks in parallel
            (as titans-pytorch). ``previous``: at M_(t-1), chunk after chunk (the published formula).
        heads: Independent memories the width is split into; ``None`` stands for 4 (slots, linear) or 1 (mlp).
        chunk_size: Tokens per write; momentum and decay act between writes. ``None``: the whole sequence is one
            chunk, so the write does not depend on the order of the tokens.
        reference_length: A chunk of L tokens writes as if it had this many (its loss is scaled by
            ``reference_length / L``), so that one setting serves every image size. ``None``: a plain sum (published).
        momentum: Whether a learned share of the last write is carried into the next one.
        decay: Whether a learned share of the memory is forgotten at each write.
        max_step: Upper bound of the learned step of a token, ``theta = max_step * sigmoid(...)``.
    """

    state: StateKind = "slots"
    read: ReadKind = "global"
    anchor: AnchorKind = "initial"
    heads: int | None = None
    chunk_size: int | None = None
    reference_length: int | None = 196
    momentum: bool = True
    decay: bool = True
    max_step: float = 1.0

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            choices, value = get_args(hints[field.name]), getattr(self, field.name)
            if choices and all(isinstance(choice, str) for choice in choices) and value not in choices:
                raise ValueError(f"{field.name}={value!r} is not known; use one of {', '.join(map(repr, choices))}")
        for name in ("heads", "chunk_size", "reference_length"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}={value!r} is out of range; use a whole number of at least 1, or None")
        if not 0 < self.max_step < float("inf"):
            raise ValueError(f"max_step={self.max_step!r} is out of range; use a finite number above 0")
        if self.state == "slots":
            for field in fields(self):
                if field.name not in ("state", "heads") and getattr(self, field.name) != field.default:
                    raise ValueError(
                        f"state='slots' has no option {field.name}; "
                        "leave it out, or use state='linear' (preset='linear')"
                    )
        if self.read == "causal" and self.chunk_size is None:
            raise ValueError("read='causal' with chunk_size=None would never write; set chunk_size, for example 196")
        if self.state == "mlp" and self.anchor == "previous" and self.chunk_size is not None:
            longest = self.max_step * (self.reference_length or self.chunk_size)  # of a chunk, over its tokens
            if longest > LONGEST_STEP:
                raise ValueError(
                    f"state='mlp' with anchor='previous' and chunk_size={self.chunk_size} grows without bound at "
                    f"max_step={self.max_step:g}: each chunk steps too far from where the one before has led; use "
                    f"max_step={self.max_step * LONGEST_STEP / longest:.2g} at most, or anchor='initial'"
                )

    @property
    def num_heads(self) -> int:
        """Number of heads, with the default of the state filled in."""
        return self.heads if self.heads is not None else {"slots": 4, "linear": 4, "mlp": 1}[self.state]
