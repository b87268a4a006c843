"""Train a Lightning module: one live progress bar, curves, checkpoints, and resuming."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from convneur.interrupts import Interrupts, stopped
from convneur.printing import Console
from convneur.training.callbacks import Curve, FirstStep, Interrupted, Live, Survival
from convneur.training.checkpoints import PlainIO, newest_checkpoint
from convneur_options.fit import FitConfig

__all__ = ["Curve", "Interrupted", "fit", "processes", "resume_from"]

PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def fit(
    task: pl.LightningModule,
    data: pl.LightningDataModule | tuple[Any, Any],
    epochs: int,
    batch_size: int,
    title: str,
    console: Console | None = None,
    config: FitConfig | None = None,
    folder: Path | None = None,
    checkpoint: Path | None = None,
    callbacks: Sequence[Callback] = (),
    clip_grad: float = 0.0,
    find_unused_parameters: bool = False,
) -> Curve:
    """Train, evaluating after every epoch or every few, on whatever accelerator there is.

    Args:
        task: Module with training and validation steps; what it logs makes the curves.
        data: Data module, or training batches (with a length) and held-out ones.
        epochs: How many in all.
        batch_size: Images per batch of one process, to show images per second.
        title: Name on the progress bar.
        console: Where the bar is drawn; standard error by default.
        config: Where and how; one device by default.
        folder: For checkpoints and logs; None for neither.
        checkpoint: To go on from.
        callbacks: More of them.
        clip_grad: Largest norm of the gradient; 0 for no limit.
        find_unused_parameters: Whether some steps leave parameters without gradient, for several processes.

    Returns:
        What was logged after each epoch, with ``epoch`` and ``step``.

    Raises:
        Interrupted: On Ctrl-C or SIGTERM, after a last checkpoint.
        KeyboardInterrupt: On one of them before the first step, and on a second Ctrl-C.
        ValueError: If the checkpoint is damaged or not one of such a task, or the training has diverged.
    """
    config = config or FitConfig()
    live = Live(title, batch_size, console or Console(stderr=True))
    for name in ("pytorch", "pytorch.utilities.rank_zero", "pytorch.accelerators.cuda", "fabric.utilities.distributed"):
        logging.getLogger(f"lightning.{name}").setLevel(logging.ERROR)  # hardware, tips, goodbye: not for every run
    with Interrupts() as interrupts, warnings.catch_warnings():
        survival = Survival(folder / "checkpoints" if folder else None, config.checkpoint_minutes, live, interrupts)
        warnings.filterwarnings("ignore", module="lightning")  # tips on workers and loaders, and its own deprecations
        warnings.filterwarnings("ignore", ".*LeafSpec.*")
        warnings.filterwarnings("ignore", ".*lr_scheduler.step.*")  # Lightning steps it first when fp16 skips a step
        devices, nodes = processes(config)
        trainer = pl.Trainer(
            accelerator=config.accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy=_strategy(config, find_unused_parameters),
            precision=PRECISION[config.precision],
            accumulate_grad_batches=config.accumulate,
            gradient_clip_val=clip_grad or None,
            max_epochs=epochs,
            check_val_every_n_epoch=config.evaluate_every,
            # In this order: what survival saves must hold the others' news.
            callbacks=[FirstStep(), *callbacks, live, survival],
            logger=_loggers(folder, config) if folder else False,
            log_every_n_steps=20,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            plugins=[] if config.strategy == "fsdp2" else [PlainIO()],  # that strategy reads and writes for itself
        )
        train: dict[str, Any] = {"datamodule": data}
        if not isinstance(data, pl.LightningDataModule):
            train = {"train_dataloaders": data[0], "val_dataloaders": data[1]}
        try:
            trainer.fit(task, **train, ckpt_path=checkpoint, weights_only=True if checkpoint else None)
        except SystemExit as stop:  # how Lightning leaves after a KeyboardInterrupt
            cause = stop.__context__
            raise cause if isinstance(cause, KeyboardInterrupt) else stopped(interrupts.number) from None
        except Interrupted:
            raise
        except BaseException as error:
            # A process that waits for one that has failed would wait for half an hour, out of sight.
            launcher: Any = trainer.strategy.launcher
            if hasattr(launcher, "kill"):
                launcher.kill(getattr(signal, "SIGKILL", signal.SIGTERM))
            if checkpoint is not None and not survival.begun and _is_misfit(error):
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                raise ValueError(
                    f"{checkpoint} is no checkpoint of this run ({reason}); remove it, or train anew with another --out"
                ) from error
            if "Expected more than 1 value per channel" in str(error):  # which only a batch of one image can have
                raise ValueError(
                    "a batch of one image has a single value per channel for some norms of the model; give a "
                    "--batch-size of 2 or more, or larger images"
                ) from error
            raise
        finally:
            live.progress.stop()
        interrupts.wait = False
        if interrupts.number is not None:  # after the last step
            raise Interrupted(live.curve, interrupts.number)
    return live.curve


def resume_from(folder: Path, console: Console, first: bool = True) -> Path | None:
    """Newest whole checkpoint of the run in ``folder``.

    Args:
        folder: Of the run.
        console: Where damaged ones, and one without a digest, are named in one line each.
        first: Whether this process tells, and puts damaged ones out of the way.

    Returns:
        Its path; None if the run came to an end before its first one.

    Raises:
        FileNotFoundError: If all are damaged.
        OSError: If one cannot be opened.
    """
    path, has_digest, damaged = newest_checkpoint(folder / "checkpoints")
    if path is None and damaged:
        raise FileNotFoundError(
            f"{folder} has only damaged checkpoints to go on from ({damaged[0].path.name}: {damaged[0].reason}); "
            "train anew with another --out"
        )

    def tell(line: str, style: str | None = None) -> None:
        if first:
            console.print(line, style=style)

    for broken in damaged:
        tell(f"{broken.path} is damaged and was passed over: {broken.reason}", "yellow")
        if first:
            broken.path.replace(broken.path.with_suffix(".damaged"))
    if path is None:
        tell(f"{folder} has no checkpoint yet; beginning at the first step")
    elif not has_digest:
        tell(f"{path} has no digest: written by an earlier version; checked as an archive only")
    return path


def _is_misfit(error: BaseException) -> bool:
    """Whether it is what comes of the state of something else; other errors before the first step say what they are."""
    kinds = (KeyError, TypeError, AttributeError, IndexError, RuntimeError)
    return isinstance(error, kinds) and not isinstance(error, torch.OutOfMemoryError)


def processes(config: FitConfig) -> tuple[int, int]:
    """Processes per machine and machines; under torchrun, what torchrun started.

    Raises:
        ValueError: If there are fewer GPUs than are asked for; on a CPU there may be any number of processes.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        return local, int(os.environ["WORLD_SIZE"]) // local
    gpus = _gpus(config.accelerator)
    if config.accelerator in ("gpu", "mps") and not gpus:
        raise ValueError(f"there is no GPU here for --fit.accelerator {config.accelerator}; leave it at auto")
    if gpus and config.devices > gpus:
        raise ValueError(
            f"--fit.devices {config.devices} is more than the GPUs here ({gpus}); give that at most, or 0 for all"
        )
    return config.devices or max(1, gpus), config.nodes


def _gpus(accelerator: str) -> int:
    """GPUs of this machine that Lightning would take."""
    cuda = torch.cuda.device_count() if accelerator in ("auto", "gpu") else 0
    return cuda or int(accelerator != "cpu" and torch.backends.mps.is_available())


def _strategy(config: FitConfig, find_unused_parameters: bool) -> Any:
    devices, nodes = processes(config)
    if config.strategy == "fsdp2":
        from lightning.pytorch.strategies import ModelParallelStrategy

        return ModelParallelStrategy(
            data_parallel_size=devices * nodes, tensor_parallel_size=1, save_distributed_checkpoint=False
        )
    if find_unused_parameters and (config.strategy == "ddp" or devices * nodes > 1):
        return "ddp_find_unused_parameters_true"
    return config.strategy


def _loggers(folder: Path, config: FitConfig) -> list[Any]:
    """Lightning's, by the names that the settings give."""
    from lightning.pytorch import loggers

    made = {
        "csv": lambda: loggers.CSVLogger(folder, name="logs"),
        "tensorboard": lambda: loggers.TensorBoardLogger(folder, name="", version="tensorboard"),
        "wandb": lambda: loggers.WandbLogger(project="convneur", name=folder.name, save_dir=folder),
        "mlflow": lambda: loggers.MLFlowLogger("convneur", folder.name, save_dir=str(folder / "mlruns")),
    }
    found = []
    for name in dict.fromkeys(config.loggers):
        try:
            found.append(made[name]())
        except ModuleNotFoundError as error:
            raise ImportError(f"--fit.loggers {name} needs the package {name}; pip install {name}") from error
    return found
