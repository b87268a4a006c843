"""An exported file as a module."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from convneur.export.facts import Facts


class Runtime(nn.Module):
    """An exported model in its runtime: images (B, C, H, W) -> logits (B, classes), on a CPU, without gradients.

    Args:
        run: Of the runtime.
        facts: What the file says of itself.

    Attributes:
        pretrained_cfg: As that of a model of timm, as far as the file keeps it.
        total_stride: The smallest side of an image, which for a model of ours is its total stride.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], facts: Facts) -> None:
        super().__init__()
        self.run = run
        self.pretrained_cfg = dict(facts.config)
        self.total_stride: int = max(facts.config["min_input_size"][1:])

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """Images on any device -> logits on the CPU.

        Raises:
            ValueError: For images of another size than the file is for; not all runtimes would notice.
        """
        self._check(images)
        logits = self.run(images.detach().float().cpu().contiguous())
        classes = self.pretrained_cfg["num_classes"]  # 0 if it gives features
        if classes and logits.shape[1] != classes:
            raise ValueError(
                f"the file names {classes} classes and answers for {logits.shape[1]}; export the model again"
            )
        return logits

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
