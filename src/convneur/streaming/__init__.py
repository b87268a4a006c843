"""Images larger than memory, exactly as whole ones, and videos frame by frame."""

from convneur.data.rasters import LargeImage
from convneur.streaming.saved import stream_saved
from convneur.streaming.sources import open_large
from convneur.streaming.stream import Streamed, stream
from convneur.streaming.video import video

__all__ = ["LargeImage", "Streamed", "open_large", "stream", "stream_saved", "video"]
