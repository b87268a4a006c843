"""A training run from its settings to the report: the one path for all tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from convneur.data.bad_samples import BadSamples
from convneur.data.labels import shown_names
from convneur.devices import device_for
from convneur.files import StrPath
from convneur.interrupts import stopped
from convneur.printing import Console, tell_notes
from convneur.training.best import KeepBest
from convneur.training.callbacks import Interrupted
from convneur.training.fit import Curve, fit, processes, resume_from
from convneur.training.kept import Kept, RunIdentity, kept_models, weights_prefix
from convneur.training.run_folder import Length, check_numbers, claim, is_first, run_folder
from convneur_options.run import RunConfig

NAMED = 10  # classes
FEW_STEPS = 200  # below which nothing is learned from scratch


@dataclass(frozen=True)
class RunSummary:
    """What a report says of the training, beside what came out.

    Attributes:
        curve: Metrics after each epoch.
        unreadable: Files that could not be read in training, and why.
        unknown_labels: Training masks with pixels of no class, and how many.
        kept: The models that the run keeps, and of which epochs they are.
    """

    curve: Curve
    unreadable: dict[str, str]
    unknown_labels: dict[str, int]
    kept: Sequence[Kept]


def train(
    spec: Any,
    config: RunConfig,
    recipe: Any,
    out: StrPath,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
    command: str = "",
) -> Any:
    """Train, or go on where the newest whole checkpoint in ``out`` was written; save, evaluate and report.

    Args:
        spec: A `convneur.tasks.spec.TaskSpec`.
        config: Of the run.
        recipe: How to train.
        out: Folder of the run: settings, checkpoints, logs, models, numbers and report.
        resume: Go on with the run in ``out``.
        overwrite: Remove a run that is there, and begin anew.
        console: For progress; standard error by default.
        command: That made the run, for the report.

    Returns:
        The evaluation of the model, and the models that the run keeps; None in all processes but the first.

    Raises:
        AlreadyDone: If the run is there, finished.
        KeyboardInterrupt: On Ctrl-C or SIGTERM, after a last checkpoint, with a line that says how to go on.
        FileExistsError: If ``out`` holds another run and ``overwrite`` is not set, or anything else.
        BlockingIOError: If another process is at work there.
        ValueError: For settings that do not fit the data, each other, or the run to be resumed.
    """
    out, console = Path(out).expanduser(), console or Console(stderr=True)
    try:
        with run_folder(out, resume, overwrite):
            trained = fit_model(spec, config, recipe, out, resume, overwrite, console)
            if trained is None:
                return None
            try:
                return _finish(trained, out, config, recipe, console, command)
            except KeyboardInterrupt as stop:
                line = "stopped before the model was judged; the same command with --resume judges it"
                raise type(stop)(line) from stop
    except Interrupted as stop:
        if not is_first():
            return None  # one line is enough, and a failing process would have Lightning kill the first
        done = f"{len(stop.curve)} of {recipe.epochs} epochs done"
        raise stopped(stop.number, f"stopped, {done}; the same command with --resume goes on from here") from stop


@dataclass(frozen=True)
class Trained:
    """What came out of the loop.

    Attributes:
        predictors: What uses each of the models that are kept; the first is the model.
        source: The images.
        summary: Of the training.
    """

    predictors: Sequence[Any]
    source: Any
    summary: RunSummary


def fit_model(
    spec: Any, config: RunConfig, recipe: Any, out: Path, resume: bool, overwrite: bool, console: Console
) -> Trained | None:
    """The part of `train` up to the last epoch; to be called within `run_folder`.

    Raises:
        Interrupted: On Ctrl-C or SIGTERM, after a last checkpoint.
    """
    first = is_first()
    check_numbers(config, recipe)
    spec.check(config, recipe)
    opened = spec.open_data(config)
    source = opened.source
    given, (recipe, notes) = recipe, _fitted(spec, config, recipe, len(source.train))
    torch.manual_seed(config.seed)
    predictor = spec.build_model(config, recipe, source, console if first else None)
    data = spec.make_data(predictor, source, config, recipe)
    length = Length.of(recipe, data)
    images = dict(opened.facts) | data.facts(length.world)
    settings = asdict(config) | {"recipe": asdict(given), "images": images, "processes": length.world}
    identity = claim(settings, opened.whole, source, out, resume, console, overwrite)
    checkpoint = resume_from(out, console, first) if resume else None
    if first:
        _tell_found(source, config, recipe, length.world, out, console, notes)
    module = spec.make_module(predictor, source, config, recipe, length, console)
    averaged = bool(recipe.ema)
    unreadable = BadSamples(len(source.train) + len(source.val), config.max_unreadable)
    best = KeepBest(out, module.metric, weights_prefix(averaged))
    curve = fit(
        module,
        data,
        recipe.epochs,
        recipe.batch_size,
        config.model,
        console,
        recipe.fit,
        out,
        checkpoint,
        [unreadable, best, RunIdentity(identity, out)],
        recipe.optim.clip_grad,
        spec.unused_parameters(predictor),
    )
    if not first:
        return None

    create = partial(spec.create_again, predictor, config, recipe)
    kept = kept_models(out, curve, module.metric, best.best, config.keep, averaged, create)
    summary = RunSummary(curve, unreadable.found, unreadable.unknown_labels, kept)
    return Trained([predictor.with_model(each.model) for each in kept], source, summary)


def _finish(trained: Trained, out: Path, config: RunConfig, recipe: Any, console: Console, command: str) -> Any:
    """Save the models, judge the one that counts, and write everything people take away from the run."""
    summary, predictor = trained.summary, trained.predictors[0]
    # Judging may fail, on a held-out file or for want of memory; the models are safe before.
    for each, kept in zip(trained.predictors, summary.kept, strict=True):
        each.save(out / kept.folder, kept.card(predictor.name))
    evaluation = predictor.evaluate_run(trained.source, config, recipe, console)
    evaluation.save(out, command, summary)
    return evaluation, summary.kept


def _fitted(spec: Any, config: RunConfig, recipe: Any, images: int) -> tuple[Any, list[str]]:
    """A recipe whose batches so many training images can fill, and what is to be said of it."""
    notes: list[str] = []
    devices, nodes = processes(recipe.fit)
    largest = spec.largest_batch(recipe, images // (devices * nodes))
    if 0 < largest < recipe.batch_size:
        before, recipe = recipe.batch_size, replace(recipe, batch_size=largest)
        spec.check(config, recipe)
        optim, step = recipe.optim, largest * recipe.fit.accumulate * devices * nodes
        rate = f"is {optim.rate(step):g}, in proportion" if optim.lr_batch else f"stays {optim.lr:g}"
        notes.append(
            f"--batch-size {before} is more than the {images:,} images to train on can fill: batches have {largest}; "
            f"the learning rate {rate}"
        )
    if config.weights is None and recipe.optim.layer_decay < 1:
        notes.append(
            f"the model starts from scratch, and rates that are lower for earlier layers (--optim.layer-decay "
            f"{recipe.optim.layer_decay:g}, as in the recipe finetune) are for trained weights; give --weights"
        )
    steps = recipe.epochs * max(1, images // max(1, recipe.batch_size * recipe.fit.accumulate * devices * nodes))
    if config.weights is None and steps < FEW_STEPS:
        notes.append(
            f"{steps} optimizer steps in all are few for a model that learns from scratch; give more --epochs, a "
            "smaller --batch-size, or --weights"
        )
    return recipe, notes


def _tell_found(
    source: Any, config: RunConfig, recipe: Any, world: int, out: Path, console: Console, notes: Sequence[str]
) -> None:
    """Say before the first epoch what was found, what was left out, and what comes of it where."""
    where = f" ({source.held_out})" if source.held_out else ""
    console.print(f"data: {config.data}, classes: {shown_names(list(source.classes), NAMED)}")
    console.print(f"to train on: {_counted(source.train)}; to judge by: {_counted(source.val)}{where}")
    tell_notes([*source.notes, *notes], console)
    device = device_for(recipe.fit.accelerator)
    name = torch.cuda.get_device_name() if device.type == "cuda" else str(device)
    several = f", {world} processes" if world > 1 else ""
    preset = f", preset {recipe.backbone.preset}" if config.model.startswith("convneur_") else ""
    console.print(
        f"{config.model}{preset}, {recipe.epochs} epochs of batches of {recipe.batch_size} on "
        f"{name}{several}; into {out}"
    )


def _counted(images: Any) -> str:
    """How many images there are, and objects on them."""
    text = f"{len(images):,} images"
    if not hasattr(images, "objects"):
        return text
    counts = [len(each) for each in images.objects]
    return f"{text} with {sum(counts):,} objects ({sum(not count for count in counts):,} with none)"
