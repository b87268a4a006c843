"""The block: a ConvNeXt block whose output a global branch may modulate (paper, section 3).

Shape letters: B batch, C channels, H W pixels of the feature map, h w of the token grid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from convneur import ops
from convneur.layers.depthwise import DepthwiseConv2d
from convneur.layers.fused import FusedLocalBranch, fusible
from convneur.layers.global_branch import GlobalBranch
from convneur.layers.mlp import PointwiseMlp
from convneur.ops.gated_residual import modulate, upsample

FusionKind = Literal["gate", "add", "gate_add", "concat"]


class ConvNeurBlock(nn.Module):
    """``X + DropPath(fusion(F_loc, G))`` with F_loc the local and G the global branch; without the latter, ``F_loc``.

    Modules and parameters of the local branch are named as in timm's ConvNeXt. With ``fusion="gate"`` the layer scale
    starts at twice ``ls_init_value``, which makes up for the gate of 1/2 that a new global branch gives: a fresh block
    computes what the local one computes; so does ``gate_add``. ``add`` and ``concat`` start as the local block without
    that.

    Args:
        dim: C.
        global_branch: Branch that reads the whole feature map, or None for a local block.
        fusion: ``gate``: sigmoid(G) * F_loc (published). ``add``: F_loc + G. ``gate_add``: sigmoid(G) * F_loc + A, A
            being the shift. ``concat``: a linear layer over F_loc and G.
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
            self.merge = nn.Linear(2 * dim, dim)
            self.reset_merge()
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.fused: FusedLocalBranch | None = None
        self.register_load_state_dict_post_hook(_fuse_again)

    def reset_merge(self) -> None:
        """Let the linear layer over both branches pass the local one on and leave the global one out."""
        if self.merge is not None:
            with torch.no_grad():
                dim = self.merge.out_features
                self.merge.weight.copy_(torch.eye(dim, 2 * dim))
                self.merge.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W); channels-last inside, whatever the memory format of ``x``."""
        if self.global_branch is not None:
            return self.join(x, self.global_branch(x))
        if self.fused is not None:
            return self.fused(x)
        return torch.addcmul(x, self.drop_path(self.local(x)), self.gamma.view(1, -1, 1, 1))

    def local(self, x: Tensor) -> Tensor:
        """The local branch without its layer scale, (B, C, H, W) -> (B, C, H, W)."""
        if self.fused is not None and not self.fused.residual:
            return self.fused(x)
        return self.mlp(self.norm(self.conv_dw(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)

    def join(
        self, x: Tensor, answers: tuple[Tensor, Tensor | None], resize: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """The local branch of a feature map, and what the global one says about it.

        Args:
            x: (B, C, H, W).
            answers: As the global branch gives them, each (B, C, h, w).
            resize: Brings a grid to the H x W of ``x``; bilinear if not given.
        """
        (context, shift), local, scale = answers, self.local(x), self.gamma.view(1, -1, 1, 1)
        shift = shift if self.fusion == "gate_add" else None
        stride = 1 if self.global_branch is None else self.global_branch.token_stride
        gated = self.fusion in ("gate", "gate_add")
        if gated:
            # Gate and layer scale meet on the small grid, so the large feature map is read and written once.
            context = context.sigmoid() * scale
        if resize is not None:  # to be done here
            context, shift, stride = resize(context), None if shift is None else resize(shift), 1
        if gated:
            if not self.training or isinstance(self.drop_path, nn.Identity):
                return ops.gated_residual(x, local, context, shift, stride)
            return x + self.drop_path(modulate(local, context, shift, stride))
        context = upsample(context, (x.shape[2], x.shape[3])) if stride > 1 else context
        if self.merge is None:
            return x + self.drop_path(local * scale + context)
        both = torch.cat([local * scale, context], 1).permute(0, 2, 3, 1)
        return x + self.drop_path(self.merge(both).permute(0, 3, 1, 2))

    def fuse(self) -> ConvNeurBlock:
        """Prepack the local branch, for inference alone; timm's `reparameterize_model` calls this, too.

        The state dict stays as it is, and loading one packs again. Other changes to the weights are not followed. A
        block whose layers were replaced or have hooks stays as it is.

        Raises:
            ValueError: In training mode.
        """
        if self.training:
            raise ValueError("a model is fused for inference only; call eval() first, or fuse a copy")
        local_only = self.global_branch is None
        self.fused = None
        if fusible(self.conv_dw, self.norm, self.mlp):
            self.fused = FusedLocalBranch(self.conv_dw, self.norm, self.mlp, self.gamma if local_only else None).eval()
        return self

    def train(self, mode: bool = True) -> ConvNeurBlock:
        """Set training mode (torch).

        Raises:
            ValueError: If the block is fused: what is prepacked would not learn.
        """
        if mode and self.fused is not None:
            raise ValueError("a fused model cannot be trained; load its state dict into a new one and train that")
        return super().train(mode)


def _fuse_again(block: ConvNeurBlock, _keys: Any) -> None:
    """What is prepacked follows the weights that were loaded."""
    if block.fused is not None:
        block.fuse()
