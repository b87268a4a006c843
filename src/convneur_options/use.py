"""What can be set when a trained model is used; None stands for what suits the model and the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class FeatureOptions:
    """How images get to a model.

    Attributes:
        image_size: Pixels a side, of a detector's or segmentation model's images the shorter one (0: of the latter, as
            they are); what the model was made for if not given.
        batch_size: Images at a time, for a classifier; 64 if not given.
        max_megapixels: Larger images are not read.
    """

    image_size: int | None = None
    batch_size: int | None = None
    max_megapixels: float = 100.0

    @property
    def max_pixels(self) -> int:
        """Of an image."""
        return round(self.max_megapixels * 1e6)


@dataclass(frozen=True)
class ImageOptions(FeatureOptions):
    """How a model is asked about images.

    Attributes:
        workers: Processes that load images; as many as suit the machine if not given.
        window: Of a segmentation model: pixels a side of tiles that are looked at one by one, so that images may be
            huge; 0 for whole images.
        scales: Of a segmentation model: factors over which answers are averaged.
        flip: Of a segmentation model: average over the mirrored image, too.
    """

    workers: int | None = None
    window: int | None = None
    scales: tuple[float, ...] | None = None
    flip: bool = False


@dataclass(frozen=True)
class EvaluateOptions(ImageOptions):
    """How a model is evaluated.

    Attributes:
        val_share: Share that is judged by where the data has no validation images; all, or what the model's run held
            out of the same data, if not given.
        seed: Of that share; that of training if not given.
        part: To judge by: what the data calls validation, or what it calls test, which training leaves alone.
        strict: Of a segmentation model: masks that cannot be used, or have pixels of no class, are errors.
        allow_remote: Read shards from the addresses, and run the commands of the pipe: sources, that a classifier's
            data names; only for data of people you trust with your account.
    """

    val_share: float | None = None
    seed: int | None = None
    part: Literal["val", "test"] = "val"
    strict: bool = False
    allow_remote: bool = False


@dataclass(frozen=True)
class PredictOptions(ImageOptions):
    """How a model is asked about images.

    Attributes:
        top_k: Answers per image, of a classifier; 3 if not given.
        score: Of a detector: from which a detection is drawn and listed; 0.5 if not given.
    """

    top_k: int | None = None
    score: float | None = None
