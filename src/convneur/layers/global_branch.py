"""The global branch: the feature map as compact tokens, through a memory or another globalizer, back to channels.

Shape letters: B batch, C channels, H W pixels of the map, h w of the token grid, N = hw tokens, D memory width.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.models import register_notrace_module
from torch import Tensor, nn

from convneur.layers import branch_kernel
from convneur.layers.globalizers import make_globalizer
from convneur.memory import (
    Folded,
    FoldedMaps,
    Linear,
    Maps,
    MemoryConfig,
    NeuralMemory,
    RMSNorm,
    Written,
    all_watched,
    answer,
    fold,
    kernels,
    library,
    maps_of,
    mlp_maps_of,
    read_folded,
    refuse_training,
    require_eval,
    watched,
    write_folded,
)


@register_notrace_module  # FX keeps it whole: the memory looks at the number of tokens
class GlobalBranch(nn.Module):
    """What every place of the map should know about the whole image.

    Pool to the token grid, project C -> D, write and read the memory, normalise its answer, project D -> C. The last
    projections start at zero, so that a new branch says the same about every image.

    Tokens of one image are mostly alike: what they share would fill the memory before what tells them apart (before
    training two keys of a picture have a cosine of 0.7 to 0.99). So their mean is taken off first.

    Args:
        dim: C, channels of the map.
        width: D, width of the memory.
        token_stride: Pixels of the map per token, along each side.
        memory: Knobs of the memory.
        center_tokens: Take the mean of an image's tokens off each before they are written.
        globalizer: What reads the tokens: ``memory``, or something else to compare it with.
        carry_tokens: Let the first answer (the gate) follow from the memory's context and the token itself, mean and
            all, rather than from the context alone.
        shift: Give a second answer, from the context alone.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        token_stride: int = 1,
        memory: MemoryConfig | None = None,
        center_tokens: bool = True,
        globalizer: str = "memory",
        carry_tokens: bool = True,
        shift: bool = True,
    ) -> None:
        super().__init__()
        self.center_tokens = center_tokens
        self.token_stride = token_stride
        self.down = Linear(dim, width, bias=carry_tokens or not center_tokens)  # centring takes a bias off again
        # Called memory whatever it is: saved weights have that name.
        self.memory = make_globalizer(globalizer, width, memory)
        self.proj = Linear(width, width, bias=False)
        self.norm = RMSNorm(width)
        self.carry_norm = RMSNorm(width) if carry_tokens else None
        self.up = Linear(width, dim)
        self.up_shift = Linear(width, dim) if shift else None
        for up in (self.up, self.up_shift):
            if up is not None:
                nn.init.zeros_(up.weight)
                nn.init.zeros_(up.bias)
        self.folded: FoldedMaps | None = None
        self.register_load_state_dict_post_hook(_fold_again)

    def fuse(self) -> GlobalBranch:
        """Fold what does not depend on the image, for inference alone; `timm.utils.reparameterize_model` calls this.

        The state dict stays as it is, and may be loaded into. Nothing changes where there is nothing to
        fold; see `convneur.memory.maps_of`.

        Raises:
            ValueError: In training mode.
        """
        require_eval(self)
        self.folded = None
        if (maps := maps_of(self.memory, self.proj)) is not None:
            with torch.inference_mode(False):  # or a gradient could not pass afterwards
                self.folded = FoldedMaps(fold(maps))
        return self

    def train(self, mode: bool = True) -> GlobalBranch:
        """Set training mode (torch).

        Raises:
            ValueError: If the branch is fused: what was folded would not learn.
        """
        if mode and self.folded is not None:
            refuse_training()
        return super().train(mode)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map (B, C, H, W) -> context on the token grid (B, C, ceil(H / stride), ceil(W / stride)), and the shift."""
        weights = self._for_kernel(x)
        if weights is not None:
            return self._by_kernel(weights, x)
        tokens, grid = self.tokens(x)
        return self.answers(tokens, self._read(tokens, grid), grid)

    def _for_kernel(self, x: Tensor) -> branch_kernel.BranchWeights | None:
        """The weights, where one call may do all that `forward` does."""
        if torch.is_grad_enabled() or type(self) is not GlobalBranch or all_watched() or _replaced(self, *_STEPS):
            return None
        norms = [self.norm] if self.carry_norm is None else [self.norm, self.carry_norm]
        ups = [self.up] if self.up_shift is None else [self.up, self.up_shift]
        linears = [self.down, *ups]
        if any(type(each) is not Linear for each in linears) or any(type(each) is not RMSNorm for each in norms):
            return None
        linear = maps_of(self.memory, self.proj)
        found = self._mlp_maps() if linear is None else (linear, ())
        if found is None or any(watched(each) or _replaced(each, "forward") for each in (*linears, *norms)):
            return None
        maps, state = found
        weights = branch_kernel.BranchWeights(
            maps,
            state,
            (self.down.weight, self.down.bias),
            [each.weight for each in norms],
            [(each.weight, each.bias) for each in ups],
        )
        return weights if branch_kernel.serves(self._config, weights, x, self.token_stride) else None

    def _mlp_maps(self) -> tuple[Maps, tuple[Tensor, Tensor]] | None:
        """Those of a memory whose state is an mlp, where all its layers do what their classes say."""
        found, parts = mlp_maps_of(self.memory, self.proj), dict(self.memory.named_children())
        if found is None or _replaced(self.memory, *_OF_MEMORY) or _replaced(parts.pop("fast"), *_OF_STATE):
            return None
        return None if any(_replaced(each, "forward") for each in (self.proj, *parts.values())) else found

    @property
    def _config(self) -> MemoryConfig:
        """Knobs of the memory, where that is one."""
        return cast(MemoryConfig, self.memory.config)

    def _by_kernel(self, weights: branch_kernel.BranchWeights, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What `forward` gives, in one call; a method so that it can be timed apart."""
        answers = branch_kernel.answers(self._config, weights, x, self.token_stride, self.center_tokens)
        return answers[0], answers[1] if self.up_shift is not None else None

    def tokens(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Map (B, C, H, W) -> tokens (B, N, D), not centred yet, and the size of their grid (h, w)."""
        if self.token_stride > 1:
            # A window over the edge is the mean of the pixels it holds, so any H and W will do.
            x = F.avg_pool2d(x, self.token_stride, ceil_mode=True, count_include_pad=False)
        return self.down(x.permute(0, 2, 3, 1).flatten(1, 2)), (x.shape[2], x.shape[3])

    def answers(self, tokens: Tensor, read: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        """Tokens and what was read about each (B, N, D), of a grid (h, w) -> the answers, each (B, C, h, w)."""
        context, carried = self._contexts(tokens, read)
        shift = None if self.up_shift is None else self._on_grid(self.up_shift(context), grid)
        return self._on_grid(self.up(carried), grid), shift

    def _contexts(self, tokens: Tensor, read: Tensor) -> tuple[Tensor, Tensor]:
        """What the second answer follows from, and what the first does; each (B, N, D)."""
        norm, carry = self.norm, self.carry_norm
        if (
            type(norm) is type(carry) is RMSNorm
            and not (watched(norm) or watched(carry) or all_watched())
            and read.shape == tokens.shape
            and library.serve(read, tokens, norm.weight, carry.weight)
        ):
            return kernels.contexts(read, tokens, norm.weight, carry.weight)
        context = norm(read)
        return context, context if carry is None else context + carry(tokens)

    def _read(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """What was read about each token (B, N, D) of a grid (h, w), centred or not yet, through ``proj``."""
        memory, proj = self.memory, self.proj
        if not isinstance(memory, NeuralMemory):
            return proj(memory(self._centred(tokens), grid))
        maps = maps_of(memory, proj)
        # Weights that are elsewhere come with the call of a module (accelerate's offloading).
        if maps is None or tokens.device != maps.proj.device:
            return proj(memory(self._centred(tokens)))
        config = memory.config
        if self.folded is None and torch.is_grad_enabled():
            return answer(config, maps, self._centred(tokens))
        folded = self.folded() if self.folded is not None else fold(maps)
        return read_folded(folded, self._write(config, folded, tokens))

    def _write(self, config: MemoryConfig, folded: Folded, tokens: Tensor) -> Written:
        """Write; a method of the branch so that it can be timed apart."""
        return write_folded(config, folded, self._centred(tokens))

    def _centred(self, tokens: Tensor) -> Tensor:
        return tokens - tokens.mean(1, keepdim=True) if self.center_tokens else tokens

    @staticmethod
    def _on_grid(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, N, C) of a grid (h, w) as a map (B, C, h, w)."""
        return tokens.view(tokens.shape[0], *grid, -1).permute(0, 3, 1, 2)


_OF_MEMORY = ("forward", "read", "taught", "rates", "_global", "_writes", "_queries", "_split")
_OF_STATE = ("forward", "initial", "keys", "read", "gradient")
_STEPS = ("tokens", "answers", "_contexts", "_read", "_write")


def _replaced(module: nn.Module, *names: str) -> bool:
    """Whether one object was given other methods of these names, as injected adapters do; a clock is none."""
    own = vars(module)
    return any(name in own and not getattr(own[name], "only_watches", False) for name in names)


def _fold_again(branch: GlobalBranch, _keys: Any) -> None:
    """What was folded follows the weights that were loaded."""
    if branch.folded is not None:
        branch.fuse()
