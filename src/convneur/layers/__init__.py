"""Local branch, global branch, and how the two are fused."""

from convneur.layers.block import ConvNeurBlock, FusionKind
from convneur.layers.global_branch import GlobalBranch
from convneur.layers.globalizers import GLOBALIZERS, GlobalizerKind
from convneur.layers.patches import PatchConv2d

__all__ = ["GLOBALIZERS", "ConvNeurBlock", "FusionKind", "GlobalBranch", "GlobalizerKind", "PatchConv2d"]
