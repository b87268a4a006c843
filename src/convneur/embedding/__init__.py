"""Features of millions of images, here or on Ray."""

from convneur.embedding.job import Embedded, embed
from convneur_options.embedding import EmbedConfig

__all__ = ["EmbedConfig", "Embedded", "embed"]
