"""An exported file as a module."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from convneur.export.export_metadata import ExportMetadata
from convneur.files import why_unreadable


class Runtime(nn.Module):
    """An exported model in its runtime: images (B, C, H, W) -> logits (B, classes), on a CPU, without gradients.

    That of a segmentation model gives logits (B, classes, H, W).

    Args:
        run: Of the runtime.
        metadata: What the file says of itself.
        name: Of the file.

    Attributes:
        pretrained_cfg: As that of a model of timm, as far as the file keeps it.
        segmenter: As in `ExportMetadata`.
        total_stride: The smallest side of an image, which for a model of ours is its total stride.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], metadata: ExportMetadata, name: str = "the file") -> None:
        super().__init__()
        self.run, self.name = run, name
        self.pretrained_cfg = dict(metadata.config)
        self.segmenter = metadata.segmenter
        self.total_stride: int = max(metadata.config["min_input_size"][1:])

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """Images on any device -> logits on the CPU.

        Raises:
            ValueError: For images of another size than the file is for, which not all runtimes would notice; if the
                runtime fails; and if what it answers is not what the file is said to.
        """
        self._check(images)
        try:
            answers = self.run(images.detach().float().cpu().contiguous())
        except Exception as error:  # whatever the runtimes raise: memory, sizes, operations
            height, width = images.shape[2:]
            raise ValueError(
                f"{self.name} does not run at {height} x {width} px, batch {len(images)} ({why_unreadable(error)}); "
                "give a smaller --batch-size or --image-size, or export the model again"
            ) from error
        classes = self.pretrained_cfg["num_classes"]  # 0 if it gives features
        expected: tuple[int, ...] = (len(images), classes or answers.shape[-1])
        if self.segmenter is not None:
            expected = (len(images), classes, *images.shape[2:])
        if tuple(answers.shape) != expected or not answers.is_floating_point():
            raise ValueError(
                f"{self.name} answers numbers of shape {tuple(answers.shape)}, {answers.dtype}, where its metadata "
                f"says {expected}; export the model again"
            )
        return answers

    def _check(self, images: Tensor) -> None:
        channels, *size = self.pretrained_cfg["input_size"]
        if images.ndim != 4 or images.shape[1] != channels:
            raise ValueError(
                f"images of shape {tuple(images.shape)} do not fit; give (batch, {channels}, height, width)"
            )
        given = list(images.shape[2:])
        if self.pretrained_cfg["fixed_input_size"] and given != size:
            raise ValueError(
                f"images of {given[0]} x {given[1]} px do not fit this file, which is for {size[0]} x {size[1]} px; "
                "leave --image-size out, or export the model for any size (without --no-dynamic)"
            )
        low = self.pretrained_cfg["min_input_size"][1:]
        if given[0] < low[0] or given[1] < low[1]:
            raise ValueError(
                f"images of {given[0]} x {given[1]} px are too small for this file; give at least {low[0]} x {low[1]}"
            )
