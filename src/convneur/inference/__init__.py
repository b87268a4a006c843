"""Inference on more than an image at a time holds: images larger than memory, and videos."""

from convneur.inference.sources import LargeImage, open_large
from convneur.inference.stream import Streamed, stream
from convneur.inference.video import video

__all__ = ["LargeImage", "Streamed", "open_large", "stream", "video"]
