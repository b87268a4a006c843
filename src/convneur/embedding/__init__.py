"""Features of millions of images, here or on Ray."""

from convneur.embedding.job import EmbedConfig, Embedded, embed

__all__ = ["EmbedConfig", "Embedded", "embed"]
