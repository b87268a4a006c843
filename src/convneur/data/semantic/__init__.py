"""Images with a class for every pixel: folders of masks, ADE20K's layout, Cityscapes'."""

from convneur.data.semantic.masks import IGNORED, MaskEncoding, MaskError
from convneur.data.semantic.sources import PixelImages, PixelSource, open_pixels

__all__ = ["IGNORED", "MaskEncoding", "MaskError", "PixelImages", "PixelSource", "open_pixels"]
