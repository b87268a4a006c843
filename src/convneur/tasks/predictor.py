"""A trained model in use: what is the same for every task."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from convneur.data.pictures import ImageLike, open_images
from convneur.data.transforms import Preprocessing, eval_transform
from convneur.devices import device_for
from convneur.files import StrPath
from convneur.models.image_sizes import require_size
from convneur.models.prepare_for_inference import prepare_for_inference
from convneur.outputs import OutputFolder
from convneur.printing import Console, Progress, tell_notes
from convneur.python_calls import python_call
from convneur.tasks.features import Features
from convneur.tasks.results import EvaluationResult, Prediction, Predictions, first_of
from convneur.tasks.run_data import RunData, keep_contents, run_data_of
from convneur_options.run import RunConfig
from convneur_options.typed import typed
from convneur_options.use import EvaluateOptions, FeatureOptions, PredictOptions


class Saver:
    """Writes predictions to a folder; of those that are words, nothing."""

    def __init__(self, folder: OutputFolder) -> None:
        self.folder = folder

    def __call__(self, found: Any) -> dict[str, str]:
        """Write the files of a prediction, and give their names by what they are."""
        return {}

    def finish(self) -> None:
        """Write what is of all predictions."""


class Predictor(ABC):
    """A model in eval mode, its classes, and what people do with it.

    Attributes:
        noun: What it is, in messages.
        uses: Options of evaluating and predicting that mean something to it.
        name: Of the model.
        model: In eval mode, plain: asking does not change it, and it may be trained on; answers follow its weights.
        classes: Names, in the order of the model's answers.
        source: Where it was loaded from; None for nowhere.
    """

    noun: ClassVar[str]
    uses: ClassVar[frozenset[str]]
    name: str
    model: nn.Module
    classes: list[str]
    source: str | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {len(self.classes)} classes, from {self.source!r})"

    # Using it

    @python_call(PredictOptions)
    def predict(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        skip_unreadable: bool = False,
        progress: bool = True,
        **options: Any,
    ) -> Predictions:
        """Ask about images.

        Args:
            images: One or several of: file, folder, glob, Pillow image, array or tensor. Arrays are (H, W, 3) or
                (H, W), tensors (3, H, W) or (1, H, W); of bytes, or of floats in 0 to 1.
            skip_unreadable: Leave out images that cannot be read, and list them in ``unreadable`` of what is returned:
                answers then do not go with the images by their place, but by ``file``.
            progress: Show a bar on standard error.
            **options: As in `convneur_options.use.PredictOptions`.

        Returns:
            An answer per image, in order.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: For options that are out of range or mean nothing to such a model, and if an image cannot be
                read; with ``skip_unreadable`` if none can.
        """
        console, found = Console(stderr=True, quiet=not progress), Predictions()
        for answer in self.predict_each(images, found.unreadable, console, **options):
            if found.unreadable and not skip_unreadable:
                break
            found.append(answer)
        if found.unreadable and not skip_unreadable:
            name, reason = found.unreadable[0]
            raise ValueError(f"{name} cannot be read ({reason}); leave it out, mend it, or give skip_unreadable=True")
        if found.unreadable and not found:
            name, reason = found.unreadable[0]
            raise ValueError(f"none of the images can be read; the first: {name} ({reason})")
        tell_notes(first_of(dict(found.unreadable), "images could not be read and were left out"), console)
        return found

    def predict_each(
        self,
        images: ImageLike | Iterable[ImageLike],
        unreadable: list[tuple[str, str]],
        console: Console,
        **options: Any,
    ) -> Iterator[Prediction]:
        """As `predict`, one answer after the other; names of what cannot be read are added to ``unreadable``."""
        chosen = PredictOptions(**self.checked(PredictOptions, options))
        opened = open_images(images, console.print, chosen.max_pixels)
        device = device_for()
        model = prepare_for_inference(self.model, device)
        with Progress(console=console, transient=True) as progress:
            row = progress.add_task("predicting", total=len(opened))
            for found in self._predict(opened, chosen, model, device):
                progress.advance(row)
                if isinstance(found, Prediction):
                    yield found
                else:
                    unreadable.append(found)

    @abstractmethod
    def _predict(
        self, images: Any, options: PredictOptions, model: nn.Module, device: torch.device
    ) -> Iterator[Prediction | tuple[str, str]]:
        """Per image an answer, or its name and why it cannot be read."""

    @python_call(EvaluateOptions)
    def evaluate(self, data: StrPath, *, progress: bool = True, **options: Any) -> EvaluationResult:
        """Judge by the held-out images of labelled data; never by what the model's own run learned from.

        Args:
            data: As for training.
            progress: Say what is done, and show a bar, on standard error.
            **options: As in `convneur_options.use.EvaluateOptions`.

        Raises:
            FileNotFoundError: If there is no such data.
            ValueError: For data that does not fit the model, and for options that are out of range or mean nothing to
                such a model.
        """
        chosen = EvaluateOptions(**self.checked(EvaluateOptions, options))
        console, data = Console(stderr=True, quiet=not progress), str(data)
        run = self._run_data()
        share, seed = run.share(data, chosen.val_share, chosen.seed)
        source = self._open(data, dataclasses.replace(chosen, val_share=share, seed=seed))
        tell_notes(source.notes, console)
        found, source = list(source.classes), self._renumbered(source)
        source = run.not_learned(source, data, console)
        if source.held_out.startswith("all of "):  # nothing is held out: no known run of the model's learned from it
            console.print(f"all {len(source.val):,} images are judged by; --val-share judges by a share of them")
        device = device_for()
        result = self._evaluate(source, chosen, prepare_for_inference(self.model, device), device, console)
        missing = [name for name in source.classes if name not in set(self._judged_classes(source, found, result))]
        if missing:
            before, after = self.missing
            console.print(f"classes that the data does not have{before}: {', '.join(missing)}{after}", style="yellow")
        return result

    missing: ClassVar[tuple[str, str]] = (", and are not judged", "")  # what becomes of such classes

    @abstractmethod
    def _open(self, data: str, options: EvaluateOptions) -> Any:
        """The images of labelled data; a share of None stands for all."""

    @abstractmethod
    def _renumbered(self, source: Any) -> Any:
        """Images whose labels are the numbers that the model has for their classes."""

    @abstractmethod
    def _evaluate(
        self, source: Any, options: EvaluateOptions, model: nn.Module, device: torch.device, console: Console
    ) -> EvaluationResult:
        """Ask about all held-out images."""

    def _judged_classes(self, source: Any, found: Sequence[str], result: EvaluationResult) -> Sequence[str]:
        """Classes that there was something to judge by."""
        return found

    def evaluate_run(self, source: Any, config: RunConfig, recipe: Any, console: Console) -> EvaluationResult:
        """Judge by the held-out images of the run that has just trained the model."""
        strict = getattr(config, "strict", False)
        options = EvaluateOptions(workers=config.workers, max_megapixels=config.max_megapixels, strict=strict)
        return self._evaluate(source, options, self.model, device_for(recipe.fit.accelerator), console)

    @python_call(FeatureOptions)
    @torch.inference_mode()
    def embed(self, images: ImageLike | Iterable[ImageLike], *, progress: bool = True, **options: Any) -> Tensor:
        """One vector per image, what the head of a classifier sees, or the mean of the backbone's last map: (N, D).

        The images are those of `predict`, the options in `convneur_options.use.FeatureOptions`; 16 images are computed
        at a time if ``batch_size`` is not given. The tensor is on the CPU.

        Raises:
            ValueError: If an image cannot be read: rows belong to images by their number; or for a size that the model
                does not take.
        """
        device = device_for()
        module = prepare_for_inference(self.feature_module(), device)
        batches = self._batches(images, module, progress, options)
        return torch.cat([module(x.to(device)).float().cpu() for x in batches])

    @python_call(FeatureOptions)
    @torch.inference_mode()
    def features(
        self, images: ImageLike | Iterable[ImageLike], *, progress: bool = True, **options: Any
    ) -> list[Tensor]:
        """The maps of the backbone's stages, each (N, C, H, W), as `embed` takes and gives them.

        Raises:
            ValueError: As `embed`.
        """
        device = device_for()
        module: Any = prepare_for_inference(self.feature_module(), device)
        batches = self._batches(images, module, progress, options)
        found = [[each.float().cpu() for each in module.maps(x.to(device))] for x in batches]
        return [torch.cat(maps) for maps in zip(*found, strict=True)]

    def _batches(
        self, images: ImageLike | Iterable[ImageLike], module: nn.Module, progress: bool, options: Mapping[str, Any]
    ) -> Iterator[Tensor]:
        chosen = FeatureOptions(**self.checked(FeatureOptions, options))
        console = Console(stderr=True, quiet=not progress)
        transform = eval_transform(self.preprocessing_for(module, chosen.image_size))
        opened, size = open_images(images, console.print, chosen.max_pixels), chosen.batch_size or 16
        with Progress(console=console, transient=True) as bar:
            row = bar.add_task("computing features", total=len(opened))
            for start in range(0, len(opened), size):
                numbers = range(start, min(start + size, len(opened)))
                yield torch.stack([transform(opened.picture(n, chosen.max_pixels)) for n in numbers])
                bar.advance(row, len(numbers))

    @abstractmethod
    def preprocessing(self, image_size: int | None = None) -> Preprocessing:
        """What the backbone expects of an image, at another size if one is given."""

    def preprocessing_for(self, model: nn.Module, image_size: int | None) -> Preprocessing:
        """As `preprocessing`, of a size that the model, or its part before the head, takes.

        Raises:
            ValueError: If it takes no such images, with sizes that it takes.
        """
        to = self.preprocessing(image_size)
        if image_size is not None:
            require_size(model, self.name, to.input_size, self.preprocessing().input_size)
        return to

    @abstractmethod
    def feature_module(self) -> Features:
        """What comes before the head.

        Raises:
            ValueError: If the model is a file that only answers.
        """

    @property
    @abstractmethod
    def architecture(self) -> tuple[str, dict[str, Any]]:
        """Name in timm of the classifier or backbone, and its arguments."""

    def saver(self, folder: OutputFolder) -> Saver:
        """What writes predictions to a folder."""
        return Saver(folder)

    # Options

    @classmethod
    def checked(cls, kind: type[FeatureOptions], options: Mapping[str, Any]) -> dict[str, Any]:
        """Options that were given; refused if they are unknown, out of range, or mean nothing to such a model."""
        fields = {field.name: field.default for field in dataclasses.fields(kind)}
        uses = fields if kind is FeatureOptions else cls.uses
        for name in options.keys() - fields.keys():
            known = [each for each in fields if each in uses]
            raise ValueError(f"{name} is no option of {cls.noun}; give some of {', '.join(known)}")
        given = vars(typed(kind(**options)))
        for name in options:
            flag, value = f"--{name.replace('_', '-')}", given[name]
            if name not in uses and value != fields[name]:
                raise ValueError(f"{flag} means nothing to {cls.noun}, which this model is; leave it out")
            least = {"image_size": cls.smallest_size, "batch_size": 1, "top_k": 1, "workers": 0, "window": 0}.get(name)
            if least is not None and value is not None and value < least:
                raise ValueError(f"{flag} {value} is out of range; give at least {least}")
            if name == "score" and value is not None and not 0 <= value <= 1:
                raise ValueError(f"--score {value} is out of range; give 0 to 1")
        return {name: given[name] for name in options}

    smallest_size: ClassVar[int] = 1  # that an image may be resized to

    # On disk

    def save(self, folder: StrPath, card: str = "") -> None:
        """Write the model, whole, or what was there stays, and what it learned from, for `evaluate` to leave that out.

        Args:
            folder: Made if it is not there.
            card: Text of README.md.

        Raises:
            FileExistsError: If the folder is that of a training run.
            OSError: If it cannot be written.
        """
        out, run = Path(folder).expanduser(), self._run_data()
        if (out / "run.json").is_file():
            raise FileExistsError(f"{out} holds a training run, which has its own model; give another folder")
        self._save(out, card or f"# {self.name}\n")
        keep_contents(out, run.contents)

    @abstractmethod
    def _save(self, folder: Path, card: str) -> None:
        """Write the model, whole, or what was there stays."""

    def _run_data(self) -> RunData:
        return run_data_of(self.source) if self.source is not None else RunData()

    @classmethod
    @abstractmethod
    def load(cls, source: str) -> Predictor:
        """Bring back what `save` wrote: the folder of a run or model.

        Raises:
            FileNotFoundError: If there is no such model.
            ValueError: If it cannot be loaded.
        """

    def with_model(self, model: nn.Module) -> Any:
        """The same for other weights."""
        return dataclasses.replace(self, model=model)  # type: ignore[type-var]

    def export(self, path: StrPath, **options: Any) -> Path:
        """Write a file for another runtime; see `convneur.export.export_model`.

        Raises:
            ValueError: If such a model cannot be exported.
        """
        raise ValueError(f"{self.noun} cannot be exported yet; classifiers and segmentation models can")
