"""Models at work on more than a few images: features of millions of them."""

from convneur.inference.embedding import EmbedConfig, Embedded, embed

__all__ = ["EmbedConfig", "Embedded", "embed"]
