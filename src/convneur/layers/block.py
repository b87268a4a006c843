"""The block: a ConvNeXt block whose output a global branch may modulate (paper, section 3).

Shape letters: B batch, C channels, H W pixels of the map.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from convneur.layers.depthwise import DepthwiseConv2d
from convneur.layers.global_branch import GlobalBranch
from convneur.layers.pointwise import PointwiseMlp
from convneur.memory import Linear, kernels

FusionKind = Literal["gate", "add", "gate_add", "concat"]


class ConvNeurBlock(nn.Module):
    """``X + DropPath(fusion(F_loc, G))`` with F_loc the local and G the global branch; without the latter, ``F_loc``.

    Modules and parameters of the local branch are named as in timm's ConvNeXt. With ``fusion="gate"`` the layer scale
    starts at twice ``ls_init_value``, which makes up for the gate of 1/2 that a new global branch gives: a fresh block
    computes what the local one computes; so does ``gate_add``. ``add`` and ``concat`` start as the local block without
    that.

    Args:
        dim: C.
        global_branch: Branch that reads the whole map, or None for a local block.
        fusion: ``gate``: sigmoid(G) * F_loc (published). ``add``: F_loc + G. ``gate_add``: sigmoid(G) * F_loc + A, A
            being the second answer. ``concat``: a linear map of F_loc and G.
        drop_path: Probability that a sample skips the block in training.
        ls_init_value: Initial layer scale of the local branch.
    """

    def __init__(
        self,
        dim: int,
        global_branch: GlobalBranch | None = None,
        fusion: FusionKind = "gate",
        drop_path: float = 0.0,
        ls_init_value: float = 1e-6,
    ) -> None:
        super().__init__()
        self.fusion = fusion
        gated = global_branch is not None and fusion in ("gate", "gate_add")
        self.conv_dw = DepthwiseConv2d(dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = PointwiseMlp(dim)
        self.gamma = nn.Parameter(torch.full((dim,), ls_init_value * (2 if gated else 1)))
        self.global_branch = global_branch
        self.merge = None
        if global_branch is not None and fusion == "concat":
            self.merge = Linear(2 * dim, dim)
            self.reset_merge()
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def reset_merge(self) -> None:
        """Let the linear map of both branches pass the local one on and leave the global one out."""
        if self.merge is not None:
            with torch.no_grad():
                dim = self.merge.out_features
                self.merge.weight.copy_(torch.eye(dim, 2 * dim))
                self.merge.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W); channels-last inside, whatever the memory format of ``x``."""
        if self.global_branch is None:
            return torch.addcmul(x, self._dropped(self.local(x)), self.gamma.view(1, -1, 1, 1))
        return self.join(x, self.global_branch(x))

    def local(self, x: Tensor) -> Tensor:
        """The local branch without its layer scale, (B, C, H, W) -> (B, C, H, W)."""
        return self.mlp(self.norm(self.conv_dw(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)

    def join(
        self,
        x: Tensor,
        answers: tuple[Tensor, Tensor | None],
        upsample: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Local branch of a map and answers of the global one, joined.

        Args:
            x: (B, C, H, W).
            answers: As the global branch gives them, each (B, C, h, w) on the token grid.
            upsample: Brings a grid to the H x W of ``x``. A new tensor, or the grid itself. Bilinear if not given.
        """
        local, scale = self.local(x), self.gamma.view(1, -1, 1, 1)
        context, shift = answers
        gated = self.fusion in ("gate", "gate_add")
        if gated:
            # Gate and layer scale meet on the small grid, so the large map is read and written once.
            context = context.sigmoid() * scale
        if upsample is None:
            if gated and not self.training and kernels.join_serves(x, local, context):
                return kernels.join(x, local, context, shift)
            upsample = partial(self._upsample, size=(x.shape[-2], x.shape[-1]))
        if gated:
            gate = upsample(context)
            if self.fusion == "gate":
                return torch.addcmul(x, self._dropped(local), gate)
            assert shift is not None
            brought = upsample(shift)
            # What was brought up is nobody else's, so the large map need not be made two times more.
            out = torch.addcmul(brought, local, gate) if brought is shift else brought.addcmul_(local, gate)
            return self._dropped(out).add_(x)
        context, local = upsample(context), local * scale
        if self.merge is None:
            return x + self._dropped(local + context)
        both = torch.cat([local, context], 1).permute(0, 2, 3, 1)
        return x + self._dropped(self.merge(both).permute(0, 3, 1, 2))

    def _dropped(self, x: Tensor) -> Tensor:
        return self.drop_path(x) if self.training else x  # the call alone takes a microsecond, in each block

    def _upsample(self, grid: Tensor, size: tuple[int, int]) -> Tensor:
        """Bring (B, C, h, w) on the token grid to the H x W of the map, bilinearly."""
        if self.global_branch is None or self.global_branch.token_stride == 1:
            return grid
        return F.interpolate(grid, size=size, mode="bilinear", align_corners=False)
