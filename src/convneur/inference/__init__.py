"""Models at work on more than a few images: larger than memory, by the million, or one after the other."""

from convneur.data.rasters import LargeImage
from convneur.inference.embedding import EmbedConfig, Embedded, embed
from convneur.inference.sources import open_large
from convneur.inference.stream import Streamed, stream
from convneur.inference.video import video

__all__ = ["EmbedConfig", "Embedded", "LargeImage", "Streamed", "embed", "open_large", "stream", "video"]
