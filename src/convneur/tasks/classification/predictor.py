"""A trained classifier in use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from convneur.data.decode import decode_image
from convneur.data.known_classes import images_of, judged_classes
from convneur.data.loading import default_workers
from convneur.data.module import eval_loader
from convneur.data.shards import Shards
from convneur.data.sources import Source, open_source
from convneur.data.transforms import Preprocessing, eval_transform
from convneur.devices import require_finite
from convneur.export import Runtime, export_model, open_model
from convneur.export.export_metadata import ExportMetadata
from convneur.files import StrPath
from convneur.models import save_model
from convneur.models.hub import model_folder
from convneur.models.image_sizes import pixels, why_not_size
from convneur.printing import Console, Progress
from convneur.tasks.classification.evaluation import Evaluation, evaluate
from convneur.tasks.classification.report import ClassifierEvaluation
from convneur.tasks.features import ClassifierFeatures
from convneur.tasks.predictor import Predictor
from convneur.tasks.results import EvaluationResult, Prediction
from convneur.tasks.saved import read_config
from convneur_options.use import EvaluateOptions, PredictOptions

SCALES = (0.75, 1.5)  # other sizes that a classifier is evaluated at, over its own


@dataclass(repr=False)
class ClassifierPrediction(Prediction):
    """What a classifier says of one image.

    Attributes:
        scores: (classes,) probabilities.
        classes: Names.
        top_k: Answers that are listed.
    """

    scores: Tensor
    classes: list[str]
    top_k: int = 3

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.classes[int(self.scores.argmax())]

    @property
    def score(self) -> float:
        """Its probability."""
        return float(self.scores.max())

    def top(self, count: int | None = None) -> list[tuple[str, float]]:
        """The most probable classes and their probabilities."""
        best = self.scores.topk(min(count or self.top_k, len(self.classes)))
        return [(self.classes[i], float(score)) for score, i in zip(best.values, best.indices.tolist(), strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """File and the most probable classes."""
        return {
            "file": self.file,
            "top": [{"label": label, "score": round(score, 6)} for label, score in self.top()],
        }

    def plot(self) -> Image.Image:
        """The image with the most probable classes below it."""
        lines = [f"{label} {score:.1%}" for label, score in self.top()]
        shown = self.image.copy()
        shown.thumbnail((640, 640))
        page = Image.new("RGB", (max(shown.width, 240), shown.height + 16 * len(lines) + 8), "white")
        page.paste(shown)
        ImageDraw.Draw(page).multiline_text((6, shown.height + 4), "\n".join(lines), fill="black")
        return page


@dataclass(repr=False)
class Classifier(Predictor):
    """A classifier.

    Attributes:
        name: Of the model.
        model: Images (B, C, H, W) -> logits (B, classes).
        classes: Names, or numbers where the model does not have them.
        config: timm's ``pretrained_cfg``: what the model expects of an image.
        model_args: That create it again with ``timm.create_model``; of exported files none.
        source: Where it was loaded from.
        named: Whether ``classes`` are names.
    """

    name: str
    model: nn.Module
    classes: list[str]
    config: dict[str, Any]
    model_args: dict[str, Any] = field(default_factory=dict)
    source: str | None = None
    named: bool = True

    noun: ClassVar[str] = "a classifier"
    uses: ClassVar[frozenset[str]] = frozenset(
        "image_size batch_size workers max_megapixels val_share seed part allow_remote top_k".split()
    )

    @classmethod
    def load(cls, source: str, trust: bool = False) -> Classifier:
        """Load a folder, a name of timm, a repository of the hub, or a file of ``convneur export``.

        Raises:
            FileNotFoundError: If there is no such model.
            OSError: If it cannot be fetched.
            ValueError: If it cannot be loaded, or would run code and ``trust`` is not set.
        """
        model, config, labels = open_model(source, trust)
        classes = labels or [str(number) for number in range(config["num_classes"])]
        folder = None if isinstance(model, Runtime) else model_folder(source)
        arguments = read_config(folder).get("model_args") if folder is not None else None
        return cls(Path(source).name, model, classes, config, arguments or {}, source, labels is not None)

    def _save(self, folder: Path, card: str) -> None:
        """As timm and the hub have models; see `convneur.models.save_model`."""
        save_model(self.model, folder, self.model_args, self.classes, card)

    def preprocessing(self, image_size: int | None = None) -> Preprocessing:
        """What the model expects of an image."""
        return Preprocessing.of(self.config, image_size)

    def feature_module(self) -> ClassifierFeatures:
        """All but the last layer."""
        if not hasattr(self.model, "forward_features"):
            raise ValueError(f"{self.name} is a file that answers and has no features; give the model it was made from")
        return ClassifierFeatures(self.model)

    @property
    def architecture(self) -> tuple[str, dict[str, Any]]:
        """Of the classifier."""
        return self.config.get("architecture", self.name), self.model_args

    def _predict(
        self, images: Any, options: PredictOptions, model: nn.Module, device: torch.device
    ) -> Iterator[Prediction | tuple[str, str]]:
        size = options.batch_size or 64
        # A few images need no other process.
        workers = min(len(images) // size, default_workers()) if options.workers is None else options.workers
        to = self.preprocessing_for(model, options.image_size)
        for batch in eval_loader(images, to, size, workers, max_pixels=options.max_pixels):
            yield from batch.unreadable
            known = batch.labels >= 0
            with torch.inference_mode():
                logits = model(batch.images.to(device)).float().cpu()[known]
            require_finite(logits)
            for index, scores in zip(batch.indices[known].tolist(), logits.softmax(1), strict=True):
                yield ClassifierPrediction(
                    images.name(index),
                    partial(images.picture, index, options.max_pixels),
                    scores.clone(),
                    self.classes,
                    options.top_k or 3,
                )

    def _open(self, data: str, options: EvaluateOptions) -> Source:
        return open_source(data, options.val_share, options.seed or 0, options.allow_remote, options.part, learns=False)

    def _renumbered(self, source: Source) -> Source:
        if self.named:
            source = images_of(source, self.classes)
        if len(self.classes) != len(source.classes):
            raise ValueError(
                f"the model has {len(self.classes)} classes and the data {len(source.classes)}; give data that fits"
            )
        return source

    def _judged_classes(self, source: Source, found: Any, result: EvaluationResult) -> list[str]:
        return judged_classes(source)

    def _evaluate(
        self, source: Source, options: EvaluateOptions, model: nn.Module, device: torch.device, console: Console
    ) -> ClassifierEvaluation:
        """Evaluate on the held-out images, at other image sizes too."""
        own = self.preprocessing_for(model, options.image_size)
        evaluations: dict[float, Evaluation] = {}
        for scale in (1.0, *SCALES):
            to = own.scaled(scale)
            if scale != 1.0 and why_not_size(model, to.input_size) is not None:
                continue  # too small, or not what its patches and windows fit
            loader = eval_loader(
                source.val,
                to,
                options.batch_size or 64,
                options.workers,
                max_pixels=options.max_pixels,
            )
            with Progress(console=console, transient=True) as progress:
                batches = progress.track(loader, len(loader), description=f"evaluating at {pixels(to.input_size)} px")
                evaluations[scale] = evaluate(model, batches, device)
        sizes = {scale: pixels(own.scaled(scale).input_size) for scale in sorted(evaluations)}
        # Shards can only be read in a row, so there are no pictures of single answers.
        in_a_row = isinstance(source.val, Shards)
        return ClassifierEvaluation(
            self.name,
            model,
            evaluations[1.0],
            source.classes,
            (lambda index: f"image {index}") if in_a_row else source.val.name,
            None if in_a_row else self._look(source, own, options.max_pixels),
            {size: evaluations[scale].top1 for scale, size in sizes.items()},
        )

    def _look(self, source: Source, to: Preprocessing, max_pixels: int) -> Callable[[int], tuple[Tensor, Tensor]]:
        tensor, shown = eval_transform(to), (3, *to.input_size[1:])
        plain = eval_transform(replace(to, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), input_size=shown))

        def look(index: int) -> tuple[Tensor, Tensor]:
            picture = decode_image(source.val.read(index), max_pixels)
            return plain(picture), tensor(picture)

        return look

    def export(self, path: StrPath, **options: Any) -> Path:
        """Write a file for another runtime: ONNX, OpenVINO, or PyTorch, by the end of its name.

        Args:
            path: Of the file: ``.onnx``, ``.xml``, ``.pt2`` or ``.aoti.pt2``.
            **options: Of `convneur.export.export_model`; a model of one size is exported for that alone.

        Returns:
            The file that is to be loaded.
        """
        options = {"dynamic": not self.config.get("fixed_input_size")} | options
        files = export_model(self.model, Path(path), ExportMetadata(self.config, self.classes), **options)
        return files[-1]
