"""A linear memory for inference alone: what does not depend on the image is worked out beforehand.

Shape letters: B batch, H heads, N tokens, D memory width, d = D / H.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convneur.memory.fast_weights import LinearState
from convneur.memory.neural_memory import NeuralMemory
from convneur.memory.norm import RMSNorm, inverse_length


class FoldedMemory(nn.Module):
    """``proj(memory(tokens))`` in half the operations, for a memory that is one chunk of linear fast weights.

    Both norms of a token differ in their gains only, which fold into the projections; keys, values and rates are one
    product. Nobody needs the queries themselves: with M_h the memory of a head, Wq_h and P_h its part of the two
    projections, the answer to all tokens is one product with a D x D matrix per image,

        proj(memory(z)) = rms(z) A,        A = sum_h Wq_h' M_h P_h.

    Buffers only, none of them in the state dict.

    Args:
        memory: Read global, state linear, in one chunk; see `foldable`.
        proj: (D, D) weight of the linear map behind it.
    """

    initial: Tensor
    kvr: Tensor
    bias: Tensor
    queries: Tensor
    proj: Tensor

    def __init__(self, memory: NeuralMemory, proj: Tensor) -> None:
        super().__init__()
        width, heads, config = memory.width, memory.heads, memory.config
        self.heads = heads
        self.step, self.reference_length, self.decays = config.max_step, config.reference_length, config.decay
        with torch.no_grad():
            rates = [memory.to_rates.weight[:heads]]
            biases = [memory.to_rates.bias.new_zeros(2 * width), memory.to_rates.bias[:heads]]
            if config.decay:  # what is kept is sigmoid(-x)
                rates.append(-memory.to_rates.weight[-heads:])
                biases.append(-memory.to_rates.bias[-heads:])
            kvr = torch.cat([memory.to_keys.weight, memory.to_values.weight, *rates])
            root = width**0.5  # the norm leaves it out
            folded = {
                "initial": memory.fast.initial()[0].clone(),
                "kvr": kvr * memory.store_norm.weight * root,
                "bias": torch.cat(biases),
                "queries": (memory.to_queries.weight * memory.retrieve_norm.weight * root).T.contiguous(),
                "proj": proj.T.reshape(heads, width // heads, width).clone(),
            }
        for name, value in folded.items():
            self.register_buffer(name, value, persistent=False)

    @staticmethod
    def foldable(memory: nn.Module) -> bool:
        """Whether a module is a memory that this class can stand for."""
        if not isinstance(memory, NeuralMemory):
            return False
        config = memory.config
        return config.state == "linear" and config.read == "global" and config.chunk_size is None

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        count, width = tokens.shape[1:]
        unit = tokens * inverse_length(tokens, RMSNorm.EPS * width)
        both, rates = F.linear(unit, self.kvr, self.bias).split([2 * width, len(self.kvr) - 2 * width], -1)
        keys, values = both.unflatten(-1, (2 * self.heads, -1)).transpose(1, 2).chunk(2, 1)  # (B, H, N, d)
        step = self.step if self.reference_length is None else self.step * self.reference_length / count
        steps = step * rates[..., : self.heads].sigmoid().mT.unsqueeze(-1)
        (written,) = LinearState.gradient((self.initial,), LinearState.keys(keys), values, steps)
        kept = self.initial
        if self.decays:
            kept = rates[..., self.heads :].mean(1).sigmoid()[..., None, None] * kept
        answer = ((kept - written) @ self.proj).flatten(1, 2)  # (B, D, D)
        return unit @ (self.queries @ answer)
