"""The block: a ConvNeXt block whose output a global branch may modulate (paper, section 3).

Shape letters: B batch, C channels, H W pixels of the map.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models import register_notrace_function
from torch import Tensor, nn

from convneur.layers import local_kernel
from convneur.layers.depthwise import DepthwiseConv2d
from convneur.layers.global_branch import GlobalBranch
from convneur.layers.pointwise import PointwiseMlp
from convneur.layers.snapshot import WeightSnapshot, snapshot, unchanged
from convneur.memory import FixedLinear, Linear, Packed, all_watched, is_exporting, kernels, require_eval, watched

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
        self.last: FixedLinear | None = None
        self.by_hand: local_kernel.LocalWeights | None = None
        self._parts: tuple[tuple[Any, ...], list[Any]] = (), []
        self._found: list[WeightSnapshot] = []
        self.register_load_state_dict_post_hook(_merge_again)

    def reset_merge(self) -> None:
        """Let the linear map of both branches pass the local one on and leave the global one out."""
        if self.merge is not None:
            with torch.no_grad():
                dim = self.merge.out_features
                self.merge.weight.copy_(torch.eye(dim, 2 * dim))
                self.merge.bias.zero_()

    def fuse(self) -> ConvNeurBlock:
        """Lay the local branch out for inference alone, layer scale and norm in its maps; timm calls this, too.

        Raises:
            ValueError: In training mode.
        """
        require_eval(self)
        mlp, by_hand = self.mlp, None
        # Not where a part was replaced, or is elsewhere (offloaded).
        if not _is_own(mlp) or mlp.fc2.bias is None or mlp.fc2.weight.is_meta:
            self.last = self.by_hand = None
            return self
        parts = self._parts_now()
        found = snapshot(self, "gamma") + snapshot(mlp.fc2, "weight", "bias")
        if type(self.conv_dw) is DepthwiseConv2d and type(self.norm) is nn.LayerNorm and mlp.is_plain():
            for layer in (mlp.fc1, self.norm, self.conv_dw):
                found += snapshot(layer, "weight", "bias")
            by_hand = local_kernel.lay_out(self.conv_dw, self.norm, mlp.fc1, mlp.fc2, self.gamma)
        scale, weight, bias = self.gamma.detach(), mlp.fc2.weight.detach(), mlp.fc2.bias.detach()
        last = FixedLinear(scale[:, None] * weight, scale * bias).eval()
        # One layout of each weight is enough, unless it goes by the number of pixels which is used.
        by_hand_alone = by_hand is not None and not local_kernel.leaves_large(len(scale))
        for layer in (mlp.fc2, *((last, self.conv_dw, mlp.fc1) if by_hand_alone else ())):
            if isinstance(layer, Packed):
                layer.lays_out, layer.packed = False, None
        for layer in (self.conv_dw, mlp.fc1):
            if isinstance(layer, Packed) and layer.packed is not None:
                layer.fuse()  # its weights may have changed
        last.fuse()
        # At the end, as other threads may be here, too.
        self.last, self.by_hand, self._parts, self._found = last, by_hand, parts, found
        return self

    def _parts_now(self) -> tuple[tuple[Any, ...], list[Any]]:
        """The layers of the local branch, and their settings."""
        # Looked up where torch keeps them, as each layer would take half a microsecond.
        own = self._modules
        conv, norm, mlp = own["conv_dw"], own["norm"], own["mlp"]
        inner = {} if mlp is None else mlp._modules
        act = inner.get("act")
        settings = [
            getattr(layer, name, None)
            for layer, names in ((conv, local_kernel.SETTINGS), (norm, ("eps",)), (act, ("approximate",)))
            for name in names
        ]
        return (conv, norm, mlp, inner.get("fc1"), act, inner.get("fc2")), settings

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W); channels-last inside, whatever the memory format of ``x``."""
        if self.global_branch is None:
            fused = self._fused(x, residual=True)
            if fused is not None:
                return fused
            return torch.addcmul(x, self._dropped(self.local(x)), self.gamma.view(1, -1, 1, 1))
        return self.join(x, self.global_branch(x))

    def _fused(self, x: Tensor, residual: bool) -> Tensor | None:
        """The local branch with its layer scale, (B, C, H, W), and the map itself if it is to be added.

        None where what `fuse` laid out cannot stand for what is here now.
        """
        if self.last is None or torch.is_grad_enabled():
            return None
        if torch.compiler.is_compiling():
            if not is_exporting() or self._parts != self._parts_now():
                return None  # a compiler merges operations itself
        elif not (self._parts == self._parts_now() and unchanged(self._found)):
            self.fuse()
        last, by_hand = self.last, self.by_hand
        if last is None or all_watched():
            return None
        if by_hand is not None and local_kernel.serves(by_hand, x) and not any(map(watched, self._parts[0])):
            return local_kernel.local(by_hand, x, residual)
        if watched(self.mlp) or watched(self.mlp.fc2) or last.weight.device != x.device:
            return None
        if torch.is_autocast_enabled(x.device.type):
            return None  # the layer scale is what brings the sum of both branches back to float32
        hidden = self.mlp.hidden(self.norm(self.conv_dw(x).permute(0, 2, 3, 1)))
        return last(hidden, x.permute(0, 2, 3, 1) if residual else None).permute(0, 3, 1, 2)

    def scaled(self, x: Tensor) -> Tensor:
        """The local branch with its layer scale, (B, C, H, W) -> (B, C, H, W)."""
        fused = self._fused(x, residual=False)
        return self.local(x) * self.gamma.view(1, -1, 1, 1) if fused is None else fused

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
        fused, scale = self._fused(x, residual=False), self.gamma.view(1, -1, 1, 1)
        local = self.local(x) if fused is None else fused
        context, shift = answers
        if self.fusion in ("gate", "gate_add"):
            # Gate and layer scale meet on the small grid, so the large map is read and written once.
            gate = context.sigmoid() * scale if fused is None else context.sigmoid()
            shift = shift if self.fusion == "gate_add" else None
            if upsample is None and not self.training and self.global_branch is not None:
                return modulated(x, local, gate, shift, self.global_branch.token_stride)
            bring = self._upsample_to(x) if upsample is None else upsample
            return _joined(x, local, bring(gate), None if shift is None else bring(shift), shift, self._dropped)
        context = (self._upsample_to(x) if upsample is None else upsample)(context)
        local = local * scale if fused is None else local
        if self.merge is None:
            return x + self._dropped(local + context)
        both = torch.cat([local, context], 1).permute(0, 2, 3, 1)
        return x + self._dropped(self.merge(both).permute(0, 3, 1, 2))

    def _dropped(self, x: Tensor) -> Tensor:
        return self.drop_path(x) if self.training else x  # the call alone takes a microsecond, in each block

    def _upsample_to(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """What brings (B, C, h, w) on the token grid to the H x W of a map."""
        stride = 1 if self.global_branch is None else self.global_branch.token_stride
        return partial(_upsampled, size=(x.shape[-2], x.shape[-1]), stride=stride)


def _upsampled(grid: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    return grid if stride == 1 else F.interpolate(grid, size=size, mode="bilinear", align_corners=False)


def modulated(x: Tensor, local: Tensor, gate: Tensor, shift: Tensor | None, stride: int) -> Tensor:
    """`_joined` in inference, with gate and shift on the token grid still, by a kernel where one serves."""
    if kernels.join_serves(x, local, gate, shift):
        return kernels.join(x, local, gate, shift)
    bring = partial(_upsampled, size=(x.shape[-2], x.shape[-1]), stride=stride)
    return _joined(x, local, bring(gate), None if shift is None else bring(shift), shift, lambda out: out)


register_notrace_function(modulated)  # FX keeps it whole: it looks at what it is given


def _joined(
    x: Tensor,
    local: Tensor,
    gate: Tensor,
    brought: Tensor | None,
    shift: Tensor | None,
    dropped: Callable[[Tensor], Tensor],
) -> Tensor:
    """``x + dropped(brought + local gate)``, all (B, C, H, W); ``shift`` is what was brought up, or the same tensor."""
    if brought is None:
        return torch.addcmul(x, dropped(local), gate)
    # What was brought up is nobody else's, so the large map need not be made two times more.
    out = torch.addcmul(brought, local, gate) if brought is shift else brought.addcmul_(local, gate)
    # Under autocast the sum is in the precision of the residual.
    return dropped(out).add_(x) if out.dtype is x.dtype else dropped(out) + x


def _is_own(mlp: nn.Module) -> bool:
    """Whether nobody has put something else in its place, or in that of its last map."""
    return type(mlp) is PointwiseMlp and type(mlp.fc2) is Linear


def _merge_again(block: ConvNeurBlock, _keys: Any) -> None:
    """What was merged follows the weights that were loaded."""
    if block.last is not None:
        block.fuse()
