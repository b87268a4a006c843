"""Local branch, global branch, and how the two are fused."""

from convneur.layers.block import ConvNeurBlock, FusionKind
from convneur.layers.global_branch import GlobalBranch
from convneur.layers.token_mixers import TOKEN_MIXERS, TokenMixerKind

__all__ = ["TOKEN_MIXERS", "ConvNeurBlock", "FusionKind", "GlobalBranch", "TokenMixerKind"]
