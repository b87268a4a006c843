"""Local branch, global branch, and how the two are fused."""

from convneur.layers.block import ConvNeurBlock, FusionKind
from convneur.layers.global_branch import GlobalBranch

__all__ = ["ConvNeurBlock", "FusionKind", "GlobalBranch"]
