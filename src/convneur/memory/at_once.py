"""The default memory written and read as a whole, by the kernels where they serve."""

from __future__ import annotations

from torch import Tensor

from convneur.memory import kernels, library
from convneur.memory.config import MemoryConfig
from convneur.memory.folded import Folded, Written, read_folded, write_folded


def write_at_once(config: MemoryConfig, folded: Folded, tokens: Tensor, center: bool) -> Written | kernels.Behind:
    """Write tokens (B, N, D) into a memory with these knobs, their mean taken off before if ``center``."""
    if library.serve(tokens, *folded):
        return kernels.write(config, folded, tokens, center)
    return write_folded(config, folded, tokens - tokens.mean(1, keepdim=True) if center else tokens)


def read_at_once(folded: Folded, written: Written | kernels.Behind) -> Tensor:
    """``proj(memory(tokens))`` of what `write_at_once` gives, (B, N, D)."""
    return kernels.read(folded, written) if isinstance(written, kernels.Behind) else read_folded(folded, written)
