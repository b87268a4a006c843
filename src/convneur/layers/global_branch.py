"""The global branch: the feature map as compact tokens, through a memory or another token mixer, back to channels.

Shape letters: B batch, C channels, H W pixels of the feature map, h w of the token grid, N = hw tokens, D memory width.
"""

from __future__ import annotations

from torch import Tensor, nn

from convneur import ops
from convneur.layers.guards import as_one_node, classes_of, is_symbolic, refuse_scripting, untouched
from convneur.layers.token_mixers import make_token_mixer
from convneur.memory import Memory, MemoryConfig, RMSNorm, SlotMemory
from convneur.ops.global_branch import centred, pool, to_grid


class GlobalBranch(nn.Module):
    """What every place of the feature map should know about the whole image.

    Pool to the token grid, project C -> D, write and read the memory, normalise what was read, project D -> C. The last
    projections start at zero, so that a new branch says the same about every image.

    Tokens of one image are mostly alike: what they share would fill the memory before what sets them apart (before
    training two keys of a picture have a cosine of 0.7 to 0.99). So their mean is taken off first.

    Args:
        dim: C, channels of the feature map.
        width: D, width of the memory.
        token_stride: Pixels of the feature map per token, along each side.
        memory: Options of the memory.
        center_tokens: Take the mean of an image's tokens off each before they are written.
        token_mixer: What reads the tokens: ``memory``, or something else to compare it with.
        token_skip: Let the gate follow from the context and the token itself, mean and all, rather than from the
            context alone.
        shift: Give a second output, from the context alone.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        token_stride: int = 1,
        memory: MemoryConfig | None = None,
        center_tokens: bool = True,
        token_mixer: str = "memory",
        token_skip: bool = True,
        shift: bool = True,
    ) -> None:
        super().__init__()
        self.center_tokens = center_tokens
        self.token_stride = token_stride
        self.down = nn.Linear(dim, width, bias=token_skip or not center_tokens)  # centring takes a bias off again
        # Called memory whatever it is: saved weights have that name.
        self.memory = make_token_mixer(token_mixer, width, memory)
        self.proj = nn.Linear(width, width, bias=False)
        self.norm = RMSNorm(width)
        self.carry_norm = RMSNorm(width) if token_skip else None
        self.up = nn.Linear(width, dim)
        self.up_shift = nn.Linear(width, dim) if shift else None
        for up in (self.up, self.up_shift):
            if up is not None:
                nn.init.zeros_(up.weight)
                nn.init.zeros_(up.bias)
        # The class of the branch is not asked for: a subclass may compute something else.
        self._built: tuple[type, ...] = (GlobalBranch, *classes_of(self)[1:])
        self._config: MemoryConfig | None = None  # with which it is one operation
        if isinstance(self.memory, SlotMemory):
            self._config = self.memory.config

    __prepare_scriptable__ = refuse_scripting  # of graphs of torch.fx, too, in which this is one node

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Feature map (B, C, H, W) -> logits of the gate, and the shift or None, each (B, C, h, w)."""
        if is_symbolic(x):
            return as_one_node(self, x)
        whole = self._config is not None and self.center_tokens and untouched(self, self._built)
        if whole and (found := self._as_one_operation(x)) is not None:
            return found[0], found[1] if len(found) > 1 else None
        tokens, grid = self.tokens(x)
        given = centred(tokens) if self.center_tokens else tokens
        mixed = self.memory(given) if isinstance(self.memory, Memory) else self.memory(given, grid)
        return self.outputs(tokens, self.proj(mixed), grid)

    def tokens(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Feature map (B, C, H, W) -> tokens (B, N, D), not centred yet, and the size of their grid (h, w)."""
        x = pool(x, self.token_stride)
        return self.down(x.permute(0, 2, 3, 1).flatten(1, 2)), (x.shape[2], x.shape[3])

    def outputs(self, tokens: Tensor, read: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        """Tokens and what was read about each (B, N, D), of a grid (h, w) -> gate and shift, each (B, C, h, w)."""
        context = self.norm(read)
        seen = context if self.carry_norm is None else context + self.carry_norm(tokens)
        shift = None if self.up_shift is None else to_grid(self.up_shift(context), grid)
        return to_grid(self.up(seen), grid), shift

    def _as_one_operation(self, x: Tensor) -> list[Tensor] | None:
        """The same as one operation, if that serves."""
        memory, down, up, shift, carry = self.memory, self.down, self.up, self.up_shift, self.carry_norm
        if not isinstance(memory, SlotMemory):
            return None
        eps = memory.norm.eps
        if memory.config is not self._config or (self.norm.eps, eps if carry is None else carry.eps) != (eps, eps):
            return None
        found: list[Tensor] | None = ops.global_branch.by_kernel(
            x,
            down.weight,
            down.bias,
            memory.norm.weight,
            memory.norm.bias,
            memory.to_keys.weight,
            memory.to_values.weight,
            memory.to_steps.weight,
            memory.to_steps.bias,
            self.proj.weight,
            self.norm.weight,
            None if carry is None else carry.weight,
            up.weight,
            up.bias,
            None if shift is None else shift.weight,
            None if shift is None else shift.bias,
            self.token_stride,
            eps,
        )
        return found
