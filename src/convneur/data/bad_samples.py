"""Files that could not be read: kept for the report, and too many of them are an error."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch.distributed
from lightning.pytorch.callbacks import Callback


class BadSamples(Callback):
    """Gathers the names of unreadable files and why; training ends when they are more than a share of the set.

    Args:
        total: Images in the set, held-out ones included.
        limit: Largest share that may be unreadable.
    """

    def __init__(self, total: int, limit: float = 0.01) -> None:
        self.total, self.limit = total, limit
        self.found: dict[str, str] = {}
        self.unknown_labels: dict[str, int] = {}  # masks with pixels of no class, and how many; of segmentation

    def add(self, unreadable: list[tuple[str, str]]) -> None:
        """Add files of a batch.

        Raises:
            ValueError: If there are too many now.
        """
        self.found |= dict(unreadable)
        if unreadable and len(self.found) > self.limit * self.total:
            name, reason = next(iter(self.found.items()))
            raise ValueError(
                f"{len(self.found)} of {self.total} images cannot be read, more than the limit of {self.limit:.1%}; "
                f"mend or remove them, or raise --max-unreadable; the first: {name} ({reason})"
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at a training batch."""
        self.add(batch.unreadable)
        self.unknown_labels |= dict(getattr(batch, "unknown_labels", ()))

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Look at a held-out batch."""
        self.add(batch.unreadable)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell every process what the others found."""
        if trainer.world_size > 1:
            told: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(told, (self.found, self.unknown_labels))
            for found, odd in told:
                self.add(list(found.items()))
                self.unknown_labels |= odd

    def state_dict(self) -> dict[str, Any]:
        """Into the checkpoint."""
        return {"found": self.found, "unknown_labels": self.unknown_labels}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.found, self.unknown_labels = dict(state_dict["found"]), dict(state_dict.get("unknown_labels", {}))
