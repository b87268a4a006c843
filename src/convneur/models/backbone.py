"""The backbone: four stages of ConvNeur blocks, with timm's model contract.

Shape letters: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import timm
import torch
from timm.layers import LayerNorm2d, NormMlpClassifierHead, trunc_normal_
from timm.models import checkpoint_seq, group_parameters
from torch import Tensor, nn

from convneur.layers import ConvNeurBlock, GlobalBranch
from convneur.layers.guards import refuse_scripting
from convneur.memory import MemoryConfig
from convneur.models.config import GlobalConfig
from convneur.models.variants import VARIANTS, resolve_preset
from convneur_options.renamed import accept_old_names


@torch.fx.wrap
def check_images(x: Tensor, in_chans: int, stride: int) -> Tensor:
    """Return ``x`` if it is a batch of images the model can take, else raise a ValueError that says what to do."""
    if x.ndim != 4:
        raise ValueError(f"images of shape {tuple(x.shape)} do not fit; give (batch, {in_chans}, height, width)")
    if x.shape[1] != in_chans:
        raise ValueError(
            f"images have {x.shape[1]} channels and the model takes {in_chans}; "
            f"convert them, or create the model with in_chans={x.shape[1]}"
        )
    if x.shape[2] < stride or x.shape[3] < stride:
        raise ValueError(
            f"images of {x.shape[2]} x {x.shape[3]} px are smaller than the total stride of the model; "
            f"give at least {stride} x {stride}"
        )
    return x


def _take_indices(count: int, indices: int | list[int] | None) -> tuple[list[int], int]:
    """Which of ``count`` stages are wanted, and the last of them."""
    # Not public, but what every model of timm uses.
    return timm.models._features.feature_take_indices(count, indices)


def fuse_layers(model: nn.Module) -> None:
    """Prepack the local branches of a model that are ours, in place; see `ConvNeur.fuse`.

    Raises:
        ValueError: In training mode.
    """
    for module in list(model.modules()):  # fusing adds some
        if isinstance(module, ConvNeurBlock):
            module.fuse()


class ConvNeurStage(nn.Module):
    """Downsampling (but in the first stage) and blocks; modules are named as in timm's ConvNeXt."""

    def __init__(self, in_chs: int, out_chs: int, blocks: Sequence[ConvNeurBlock], downsample: bool) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample: nn.Module = nn.Identity()
        if downsample:
            self.downsample = nn.Sequential(LayerNorm2d(in_chs, eps=1e-6), nn.Conv2d(in_chs, out_chs, 2, stride=2))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / 2, W / 2), or the same size in the first stage."""
        x = self.downsample(x)
        if self.grad_checkpointing:
            return checkpoint_seq(self.blocks, x)
        return self.blocks(x)


class ConvNeur(nn.Module):
    """ConvNeur (arXiv 2603.19567): a ConvNeXt whose features a neural memory of the whole image modulates.

    Use it through timm (``timm.create_model("convneur_m1")``) or `convneur.create_model`. It follows timm's contract
    for backbones: ``forward_features``, ``forward_intermediates``, ``reset_classifier`` and so on.

    Args:
        in_chans: Channels of an image.
        num_classes: Outputs of the classifier; 0 for pooled features.
        global_pool: Pooling before the classifier; '' for none.
        output_stride: Only 32, the stride the stages have.
        depths: Blocks per stage.
        dims: Channels per stage.
        patch_size: Stride of the stem; 2 suits small images.
        ls_init_value: Initial layer scale.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 at the first.
        preset: ``slots``; ``linear``, the memory of earlier versions; or ``published``, the paper's global branch.
        global_placement: Overrides the preset: ``per_stage``, ``per_layer`` or ``none`` (local-only).
        fusion: Overrides the preset: ``gate``, ``add``, ``gate_add`` or ``concat``.
        token_strides: Overrides the preset: pixels of a stage's map per token.
        memory_width: Overrides the preset: width of the memory.
        center_tokens: Overrides the preset: take the mean of an image's tokens off each.
        token_skip: Overrides the preset: let the gate follow from each token itself, too.
        token_mixer: Overrides the preset: what reads the tokens; see `convneur.layers.token_mixers`.
        memory: Overrides the preset: a `MemoryConfig`, or a dict of some of its options.

    Raises:
        ValueError: For a value that is unknown or out of range, and for images that do not fit.
    """

    pretrained_cfg: dict[str, Any]  # both are set by timm's factory
    default_cfg: dict[str, Any]

    @accept_old_names
    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        output_stride: int = 32,
        depths: Sequence[int] = VARIANTS["convneur_m1"].depths,
        dims: Sequence[int] = VARIANTS["convneur_m1"].dims,
        patch_size: int = 4,
        ls_init_value: float = 1e-6,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        preset: str = "slots",
        global_placement: str | None = None,
        fusion: str | None = None,
        token_strides: Sequence[int] | None = None,
        memory_width: int | None = None,
        center_tokens: bool | None = None,
        token_skip: bool | None = None,
        token_mixer: str | None = None,
        memory: MemoryConfig | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if output_stride != 32:
            raise ValueError(
                f"output_stride={output_stride} is not supported; leave it at 32 and take finer maps "
                "from features_only=True (strides 4, 8, 16, 32)"
            )
        config = resolve_preset(
            preset,
            memory,
            placement=global_placement,
            fusion=fusion,
            token_strides=token_strides,
            width=memory_width,
            center_tokens=center_tokens,
            token_skip=token_skip,
            token_mixer=token_mixer,
        )
        if len(config.token_strides) < len(dims):
            raise ValueError(
                f"token_strides={config.token_strides} is too short; give one for each of {len(dims)} stages"
            )
        self.global_config: GlobalConfig = config
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.feature_info: list[dict[str, Any]] = []
        self.total_stride = patch_size * 2 ** (len(dims) - 1)
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, dims[0], kernel_size=patch_size, stride=patch_size), LayerNorm2d(dims[0], eps=1e-6)
        )
        drop_paths = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").split(list(depths))
        stages = []
        for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
            branch = partial(
                GlobalBranch,
                dim,
                config.width or 2 * dims[0],
                config.token_strides[i],
                config.memory,
                center_tokens=config.center_tokens,
                token_mixer=config.token_mixer,
                token_skip=config.token_skip,
                shift=config.fusion == "gate_add",
            )
            blocks = [
                ConvNeurBlock(
                    dim,
                    branch()
                    if config.placement == "per_layer" or (config.placement == "per_stage" and j == 0)
                    else None,
                    config.fusion,
                    drop_path=drop_paths[i][j].item(),
                    ls_init_value=ls_init_value,
                )
                for j in range(depth)
            ]
            stages.append(ConvNeurStage(dims[max(i - 1, 0)], dim, blocks, downsample=i > 0))
            self.feature_info.append({"num_chs": dim, "reduction": patch_size * 2**i, "module": f"stages.{i}"})
        self.stages = nn.Sequential(*stages)
        self.num_features = dims[-1]
        self.norm_pre = nn.Identity()
        self.head = NormMlpClassifierHead(
            self.num_features,
            num_classes,
            pool_type=global_pool,
            drop_rate=drop_rate,
            norm_layer=partial(LayerNorm2d, eps=1e-6),
        )
        self.head_hidden_size = self.head.num_features
        self.init_weights()

    __prepare_scriptable__ = refuse_scripting

    def init_weights(self) -> None:
        """Initialise the local branches as ConvNeXt does; global branches keep their own initialisation."""
        inside = {id(m) for branch in self._global_branches() for m in branch.modules()}
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)) and id(module) not in inside:
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, ConvNeurBlock):
                module.reset_merge()

    def _global_branches(self) -> list[GlobalBranch]:
        return [m for m in self.modules() if isinstance(m, GlobalBranch)]

    @property
    def has_gates(self) -> bool:
        """Whether a global branch gates each stage."""
        return "gate" in self.global_config.fusion and self.global_config.placement != "none"

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that sort parameters by depth, for layer-wise decay (timm)."""
        return {
            "stem": r"^stem",
            "blocks": r"^stages\.(\d+)"
            if coarse
            else [
                (r"^stages\.(\d+)\.downsample", (0,)),
                (r"^stages\.(\d+)\.blocks\.(\d+)", None),
                (r"^norm_pre", (99999,)),
            ],
        }

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that must not decay: those of the global branches (timm)."""
        inside = {id(p) for branch in self._global_branches() for p in branch.parameters()}
        return {name for name, p in self.named_parameters() if id(p) in inside}

    def parameter_groups(
        self, lr: float, weight_decay: float = 0.05, global_lr_scale: float = 0.1, layer_decay: float = 1.0
    ) -> list[dict[str, Any]]:
        """Groups for an optimizer: the global branch learns slower and does not decay, nor do norms, biases, scales.

        Args:
            lr: Learning rate of the local branches.
            weight_decay: Decay of their weight matrices.
            global_lr_scale: Learning rate of the global branches over ``lr``.
            layer_decay: Learning rate of a layer over that of the next one; 1 for the same everywhere (timm's
                layer-wise decay, by `group_matcher`).

        Returns:
            Groups with ``name``, ``params``, ``lr`` and ``weight_decay``; empty ones are left out. Those of the
            classifier have a name that begins with ``head``, and are apart. Frozen parameters are in none.
        """
        slow = self.no_weight_decay()
        head = {id(p) for p in self.get_classifier().parameters()}
        depth = group_parameters(self, self.group_matcher(), reverse=True)
        top = max(depth.values())
        groups: dict[str, dict[str, Any]] = {}
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                continue
            kind = "global" if name in slow else "decay" if parameter.ndim > 1 else "no_decay"
            rate = lr * layer_decay ** (top - depth[name]) * (global_lr_scale if kind == "global" else 1.0)
            key = f"head_{kind}" if id(parameter) in head else kind
            if layer_decay != 1.0 and id(parameter) not in head:
                key = f"{kind}_{depth[name]}"
            group = groups.setdefault(
                key, {"name": key, "params": [], "lr": rate, "weight_decay": weight_decay if kind == "decay" else 0.0}
            )
            group["params"].append(parameter)
        return list(groups.values())

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: keep no activations inside a stage and compute them again in the backward pass."""
        for module in self.modules():
            if isinstance(module, ConvNeurStage):
                module.grad_checkpointing = enable

    def fuse(self) -> ConvNeur:
        """Prepack the local branches, in place, for faster inference in float32.

        Each local branch becomes a frozen `FusedLocalBranch`, one operation; timm's `reparameterize_model` does the
        same to a copy. Where it has no kernel (``convneur info`` says why) nothing changes.

        Outputs change by rounding only, in every memory format and precision. The model takes twice the memory.

        What follows a change: the state dict stays that of the plain model, and `load_state_dict` packs again; stem,
        downsampling, global branches and head are as before. What does not: the weights of a local branch that are
        changed in place, its hooks, and its layer scale where there is no gate. A block whose local branch has hooks or
        replaced layers when it is fused stays as it is.

        Returns:
            This model.

        Raises:
            ValueError: In training mode; and from ``train()`` afterwards.
        """
        fuse_layers(self)
        return self

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier.

        Args:
            num_classes: Of the new one; 0 for none.
            global_pool: New pooling, if given; '' for none.
        """
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)
        self.head_hidden_size = self.head.num_features

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps of the stages (timm).

        Args:
            x: Images (B, C, H, W).
            indices: The last n stages if a number, all if None, else those listed.
            norm: Apply the final norm; this model has none before its head.
            stop_early: Do not run the stages after the last one wanted.
            output_fmt: Only 'NCHW'.
            intermediates_only: Return the list alone.

        Returns:
            List of maps, or final features and that list.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt={output_fmt!r} is not supported; use 'NCHW'")
        take, last = _take_indices(len(self.stages), indices)
        x = self.stem(check_images(x, self.in_chans, self.total_stride))
        intermediates = []
        for i, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            x = stage(x)
            if i in take:
                intermediates.append(x)
        return intermediates if intermediates_only else (self.norm_pre(x), intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the stages after the last one wanted, and the classifier (timm).

        Returns:
            Indices of the stages kept.
        """
        take, last = _take_indices(len(self.stages), indices)
        shorter = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        if prune_head or shorter:
            self.reset_classifier(0, "")
        if shorter or (prune_norm and prune_head):
            self.head.norm = nn.Identity()  # nobody calls it, or it was made for the width of the last stage
        if shorter:
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        return take

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) -> last map (B, C4, H / 32, W / 32)."""
        x = self.stem(check_images(x, self.in_chans, self.total_stride))
        return self.norm_pre(self.stages(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Last map -> logits (B, num_classes), or pooled features (B, C4)."""
        return self.head(x, pre_logits=True) if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))
