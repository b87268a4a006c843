"""A class for every pixel: models, how they learn, and what they are worth."""

from convneur.tasks.segmentation.models import DecoderName, Segmenter, create_segmenter, parameter_groups
from convneur.tasks.segmentation.saved import load_segmenter, save_segmenter

__all__ = ["DecoderName", "Segmenter", "create_segmenter", "load_segmenter", "parameter_groups", "save_segmenter"]
