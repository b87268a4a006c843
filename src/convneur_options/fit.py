"""Where and how long to train; nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class FitConfig:
    """Where and how long to train.

    Attributes:
        precision: ``bf16`` and ``fp16`` are mixed precision; the latter scales the loss.
        accumulate: Batches per optimizer step.
        accelerator: ``auto`` takes a GPU if there is one.
        devices: Processes on this machine, one a device; 0 for all GPUs.
        nodes: Machines.
        strategy: ``fsdp2`` shards weights and optimizer state over the devices (PyTorch's fully_shard).
        evaluate_every: Epochs from one evaluation on held-out images to the next.
        checkpoint_minutes: A checkpoint is written after every epoch, and in between after so many minutes.
        loggers: Where curves go: ``csv`` and ``tensorboard`` in the folder of the run, ``wandb`` (Weights & Biases) and
            ``mlflow`` if they are installed.
    """

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accumulate: int = 1
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp2"] = "auto"
    evaluate_every: int = 1
    checkpoint_minutes: float = 10.0
    loggers: tuple[Literal["csv", "tensorboard", "wandb", "mlflow"], ...] = ("csv", "tensorboard")
