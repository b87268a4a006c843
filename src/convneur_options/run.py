"""What decides a training run, whatever the task; the recipes of the tasks stand beside the tasks' own settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RunConfig:
    """What decides a training run, beside its recipe.

    Attributes:
        data: Where the images are; docs/data.md lists the formats of each task.
        model: convneur_m1 to convneur_m4, or any model of timm, such as resnet18.
        weights: To start from: folder of a run or model of ours, ConvNeXt checkpoint file, timm name, or `pretrained`
            for a model of timm.
        seed: Of everything that is drawn.
        train_images: To train on at most; 0 for all. Of a classifier's images in proportion to the classes.
        val_share: Share to hold out where the data has no validation images.
        hold_out: Take that share of the training images to judge by even where the data has validation images.
        keep: Which epoch model/ has: the last, or the one that is best on the held-out images (accuracy, ap, miou),
            whose number there is then somewhat too good. The other lies beside it, in model-best/ or model-last/.
        workers: Processes that load images; as many as suit the machine if not given.
        max_unreadable: Largest share of images that may be unreadable.
        max_megapixels: Larger images count as unreadable.
        cache_gb: GB of memory for decoded images, which saves decoding them again; 0 for none.
    """

    data: str
    model: str = "convneur_m1"
    weights: str | None = None
    seed: int = 0
    train_images: int = 0
    val_share: float = 0.2
    hold_out: bool = False
    keep: Literal["last", "best"] = "last"
    workers: int | None = None
    max_unreadable: float = 0.01
    max_megapixels: float = 100.0
    cache_gb: float = 1.0

    @property
    def max_pixels(self) -> int:
        """Of an image."""
        return round(self.max_megapixels * 1e6)
