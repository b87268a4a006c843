"""What people call from Python: train, load, evaluate, predict. The command line is a thin skin of it."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from convneur.data.image_files import find_images
from convneur.files import StrPath
from convneur.models.registry_utils import choose
from convneur.notes import AlreadyDone, files_hash, model_identity, resolved
from convneur.outputs import OutputFolder, made_once
from convneur.printing import Console
from convneur.python_calls import as_python, python_call
from convneur.tasks.predictor import Predictor
from convneur.tasks.registry import open_predictor, predictor_class_of, task_named
from convneur.tasks.results import EvaluationResult, Prediction, Predictions
from convneur.training.run import train as train_run
from convneur_options.classification import ClassificationConfig, ClassificationRecipe
from convneur_options.detection import DetectionConfig, DetectionRecipe
from convneur_options.renamed import accept_old_names
from convneur_options.run import RunConfig
from convneur_options.segmentation import SegmentationConfig, SegmentationRecipe
from convneur_options.typed import typed
from convneur_options.use import EvaluateOptions, PredictOptions

__all__ = [
    "EvaluationResult",
    "Prediction",
    "Predictions",
    "Predictor",
    "TrainedRun",
    "evaluate",
    "load",
    "predict",
    "train",
]


@dataclass(frozen=True)
class TrainedRun:
    """A training run that has finished: its folder, and what is in it.

    Attributes:
        folder: Of the run.
    """

    folder: Path

    def __repr__(self) -> str:
        last = self.curve[-1] if self.report.is_file() else {}  # the folder may be gone
        told = ", ".join(f"{name} {last[name]:.3f}" for name in ("accuracy", "ap", "miou") if name in last)
        return f"TrainedRun({str(self.folder)!r}{told and f': {told} after {len(self.curve)} epochs'})"

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """What metrics.json says: of the evaluation on the held-out images, and the learning curve."""
        found: dict[str, Any] = json.loads((self.folder / "metrics.json").read_text(encoding="utf-8"))
        return found

    @property
    def curve(self) -> list[dict[str, float]]:
        """Metrics after each epoch."""
        found: list[dict[str, float]] = self.numbers["curve"]
        return found

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / "report.html"

    @cached_property
    def model(self) -> Predictor:
        """The trained model, loaded."""
        return load(self.folder)


@accept_old_names
@python_call(
    RunConfig,
    by_recipe=(
        ClassificationConfig,
        DetectionConfig,
        SegmentationConfig,
        ClassificationRecipe,
        DetectionRecipe,
        SegmentationRecipe,
    ),
)
def train(
    data: StrPath,
    task: str = "classification",
    *,
    recipe: Any = None,
    out: StrPath | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    **settings: Any,
) -> TrainedRun:
    """Train a model on images, evaluate it, and write model, numbers and a report to ``out``.

    Args:
        data: Where the images are; docs/data.md lists the formats.
        task: ``classification``, ``detection``, ``instance`` or ``segmentation``.
        recipe: Name, or one of the dataclasses in `convneur_options`; ``quick`` if None.
        out: Folder of the run; ``runs/TASK`` if None, such as ``runs/detection``.
        resume: Go on where the newest whole checkpoint in ``out`` was written; a finished run, to more ``epochs``.
        overwrite: Remove what an earlier run wrote to ``out``, and begin anew.
        progress: Say what is done, and show a bar, on standard error.
        **settings: Of the run or of the recipe, such as ``model``, ``weights``, ``seed``, ``epochs``; of a part of the
            recipe as a dict, such as ``optim={"lr": 1e-3}``. The signature has those of all tasks; docs/options.md says
            which are for which.

    Returns:
        The run. One that was there, finished, with the same settings, is returned as it is.

    Raises:
        FileNotFoundError: If there is no such data, or nothing to resume.
        FileExistsError: If ``out`` holds another run and ``overwrite`` is not set, or anything else.
        KeyboardInterrupt: On Ctrl-C, after a checkpoint.
        ValueError: For settings that are unknown, or do not fit the data, each other, or the run to be resumed.
    """
    spec = task_named(task)
    config, chosen = settings_of(spec, str(data), recipe, settings)
    named = {"recipe": recipe} | settings if isinstance(recipe, str) else settings
    given = "".join(f", {name}={value!r}" for name, value in named.items())
    command = f"convneur.train({str(data)!r}, {task!r}{given})"
    console, out = Console(stderr=True, quiet=not progress), Path(out or f"runs/{task}").expanduser()
    try:
        train_run(spec, config, chosen, out, resume, overwrite, console, command)
    except AlreadyDone as done:
        console.print(as_python(str(done)))
    return TrainedRun(out)


def settings_of(spec: Any, data: str, recipe: Any, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    """Settings of a run and its recipe, from a recipe and what is to be changed.

    Raises:
        ValueError: For a name that neither has, with the closest one, and for a value of another type.
    """
    name: Any = "quick" if recipe is None else recipe
    own_kind = isinstance(name, type(next(iter(spec.recipes.values()))))
    chosen = name if own_kind else spec.recipes[choose(name, spec.recipes, "recipe")]
    own = {field.name for field in dataclasses.fields(spec.config_class)}
    config = spec.config_class(**{"data": data} | {key: value for key, value in settings.items() if key in own})
    rest = {key: value for key, value in settings.items() if key not in own}
    known = {*own, *(field.name for field in dataclasses.fields(chosen))}
    return typed(config), typed(_changed(chosen, rest, known))


def _changed(chosen: Any, changes: Mapping[str, Any], known: set[str]) -> Any:
    """A dataclass with other values; parts of it are changed by dicts."""
    made = {}
    for name, value in changes.items():
        if name not in {field.name for field in dataclasses.fields(chosen)}:
            parts = [part for part, each in vars(chosen).items() if name in getattr(each, "__dataclass_fields__", ())]
            near = difflib.get_close_matches(name, sorted(known), 1)
            instead = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
            if parts:
                instead = f"give it in a part, as {' or '.join(f'{part}={{{name!r}: {value!r}}}' for part in parts)}"
            raise ValueError(f"{name} is no setting; {instead}")
        part = getattr(chosen, name)
        if dataclasses.is_dataclass(part) and isinstance(value, Mapping):
            value = _changed(part, value, {field.name for field in dataclasses.fields(part)})
        made[name] = value
    return dataclasses.replace(chosen, **made)


@python_call()
def load(model: StrPath, *, which: str | None = None, trust: bool = False) -> Predictor:
    """A trained model, to predict, evaluate and export with.

    Args:
        model: Folder of a run or model, ``hf-hub:USER/NAME``, a timm name with pretrained weights, a file of
            ``convneur export``, or a ``.safetensors`` or ``.ckpt`` file of a finished run.
        which: Of a run, ``last`` or ``best`` epoch; the one that ``keep`` made the model if None.
        trust: Load a .pt2 of ``convneur export``, which runs the code in it.

    Raises:
        FileNotFoundError: If there is no such model.
        OSError: If it cannot be fetched.
        ValueError: If it cannot be loaded.
    """
    source = str(model)
    if which is not None:
        source = str(_epoch_folder(Path(source).expanduser(), choose(which, ("last", "best"), "which")))
    return open_predictor(source, trust)


def _epoch_folder(run: Path, which: str) -> Path:
    """Folder of the model of an epoch, in that of a run."""
    try:
        models = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["models"]
        return run / next(folder for folder, each in models.items() if each["weights"] == which)
    except (OSError, ValueError, KeyError, StopIteration):
        raise FileNotFoundError(
            f"{run} holds no model of the {which} epoch; give the folder of a finished run"
        ) from None


@python_call(EvaluateOptions)
def evaluate(
    model: StrPath,
    data: StrPath,
    out: StrPath | None = None,
    *,
    trust: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    command: str | None = None,
    **options: Any,
) -> EvaluationResult:
    """Judge a model by the held-out images of labelled data, and write numbers and a report.

    Args:
        model: As for `load`.
        data: As for `train`.
        out: Folder for metrics.json, predictions.csv and report.html; None for none.
        trust: As for `load`.
        overwrite: Replace what an earlier call wrote to ``out``.
        progress: Say what is done, and show a bar, on standard error.
        command: For the report; this call if None.
        **options: As in `convneur_options.use.EvaluateOptions`.

    Raises:
        AlreadyDone: If ``out`` has come out of the same call before.
        FileExistsError: If ``out`` holds something else.
        ValueError: As `Predictor.evaluate`.
    """
    console = Console(stderr=True, quiet=not progress)
    if out is None:
        return load(model, trust=trust).evaluate(data, progress=progress, **options)
    name, data = str(model), str(data)
    options = predictor_class_of(name).checked(EvaluateOptions, options)
    chosen = EvaluateOptions(**options)
    made_from = {
        "model": model_identity(name),
        "data": [resolved(data), files_hash(resolved(data).removeprefix("hf:").removeprefix("wds:"))],
        "image_size": chosen.image_size,
        "share": [chosen.val_share, chosen.seed, chosen.part],
        "max_megapixels": chosen.max_megapixels,
        "inference": [chosen.window, chosen.scales, chosen.flip],
    } | ({"strict": True} if chosen.strict else {})
    with OutputFolder(Path(out).expanduser(), "eval", overwrite) as folder:
        folder.check(made_from)
        with console.status(f"Loading {name}"):
            predictor = load(name, trust=trust)
        result = predictor.evaluate(data, progress=progress, **options)
        folder.start()
        result.save(folder.path, command or f"convneur.evaluate({name!r}, {data!r})")
        folder.finish()
    return result


Found = tuple[list[dict[str, Any]], list[tuple[str, str]]]


@python_call(PredictOptions)
def predict(
    images: StrPath | Sequence[StrPath],
    model: StrPath,
    out: StrPath | None = None,
    *,
    trust: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    **options: Any,
) -> Found:
    """Ask a model about image files, and draw what a detector or a segmentation model says.

    Args:
        images: Files, folders and globs.
        model: As for `load`.
        out: Folder for the pictures; of a classifier, which makes none, None.
        trust: As for `load`.
        overwrite: Replace what an earlier call wrote to ``out``.
        progress: Say what is done, and show a bar, on standard error.
        **options: As in `convneur_options.use.PredictOptions`.

    Returns:
        Per image what `Prediction.to_dict` gives and the files that were made of it; and the files that could not be
        read, and why.

    Raises:
        FileExistsError: If ``out`` holds something else.
        FileNotFoundError: If there is no such file.
        ValueError: As `Predictor.predict`.
    """
    console, name = Console(stderr=True, quiet=not progress), str(model)
    files = find_images(images, console.print)
    kind = predictor_class_of(name)
    options = kind.checked(PredictOptions, options)
    draws = kind is not task_named("classification").predictor_class
    if not draws and out is not None:
        raise ValueError(
            f"--out {out} is for pictures, and a classifier makes none; leave it out (convneur predict --format csv > "
            "FILE keeps its answers)"
        )

    def ask(folder: OutputFolder | None) -> Found:
        with console.status(f"Loading {name}"):
            predictor = load(name, trust=trust)
        rows: list[dict[str, Any]] = []
        unreadable: list[tuple[str, str]] = []
        if folder is not None:
            folder.start()
        saver = predictor.saver(folder) if folder is not None else None
        for found in predictor.predict_each(files, unreadable, console, **options):
            made = saver(found) if saver is not None else {}
            rows.append({"file": found.file, **made, **found.to_dict()})
        if saver is not None:
            saver.finish()
        return rows, unreadable

    if not draws:
        return ask(None)
    chosen = PredictOptions(**options)
    made_from = {
        "model": model_identity(name),
        "image_list": [len(files), files_hash(*files)],
        "image_size": chosen.image_size,
        "max_megapixels": chosen.max_megapixels,
        "score": chosen.score,
        "inference": [chosen.window, chosen.scales, chosen.flip],
    }
    folder = OutputFolder(Path(out or "runs/predict").expanduser(), "predict", overwrite)
    rows, unreadable = made_once(folder, made_from, ask, console.print)
    return rows, unreadable
