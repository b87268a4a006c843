"""The global branch: the feature map as compact tokens, through a memory or another globalizer, back to channels.

Shape letters: B batch, C channels, H W pixels of the map, h w of the token grid, N = hw tokens, D memory width.
"""

from __future__ import annotations

import torch.nn.functional as F
from timm.models import register_notrace_module
from torch import Tensor, nn

from convneur.layers.globalizers import GlobalizerKind, make_globalizer
from convneur.memory import MemoryConfig, NeuralMemory, RMSNorm


@register_notrace_module  # FX keeps it whole: the memory looks at the number of tokens
class GlobalBranch(nn.Module):
    """What every place of the map should know about the whole image.

    Pool to the token grid, project C -> D, write and read the memory, normalise its answer, project D -> C. The last
    projection starts at zero, so that a new branch says the same about every image.

    Tokens of one image are mostly alike: what they share would fill the memory before what tells them apart (before
    training two keys of a picture have a cosine of 0.7 to 0.99). So their mean is taken off first.

    Args:
        dim: C, channels of the map.
        width: D, width of the memory.
        token_stride: Pixels of the map per token, along each side.
        memory: Knobs of the memory.
        center_tokens: Take the mean of an image's tokens off each.
        globalizer: What reads the tokens: ``memory``, or something else to compare it with.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        token_stride: int = 1,
        memory: MemoryConfig | None = None,
        center_tokens: bool = True,
        globalizer: GlobalizerKind = "memory",
    ) -> None:
        super().__init__()
        self.center_tokens = center_tokens
        self.token_stride = token_stride
        self.down = nn.Linear(dim, width, bias=not center_tokens)  # what all tokens share is taken off again
        # Called memory whatever it is: saved weights have that name.
        self.memory = make_globalizer(globalizer, width, memory)
        self.proj = nn.Linear(width, width, bias=False)
        self.norm = RMSNorm(width)
        self.up = nn.Linear(width, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) -> context on the token grid (B, C, ceil(H / stride), ceil(W / stride))."""
        if self.token_stride > 1:
            # A window over the edge is the mean of the pixels it holds, so any H and W will do.
            x = F.avg_pool2d(x, self.token_stride, ceil_mode=True, count_include_pad=False)
        grid = x.permute(0, 2, 3, 1)
        tokens = self.down(grid.flatten(1, 2))
        if self.center_tokens:
            tokens = tokens - tokens.mean(1, keepdim=True)
        read = self.memory
        context = read(tokens) if isinstance(read, NeuralMemory) else read(tokens, (grid.shape[1], grid.shape[2]))
        return self.up(self.norm(self.proj(context))).reshape(grid.shape).permute(0, 3, 1, 2)
