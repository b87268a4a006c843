"""A trained detector in use."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from convneur.data.known_classes import objects_of
from convneur.data.loading import ImageCache, default_workers
from convneur.data.module import in_order
from convneur.data.objects import ObjectSource, open_objects
from convneur.data.objects.loading import EvalObjects, collate_objects
from convneur.data.objects.masks import decode_masks
from convneur.data.transforms import Preprocessing
from convneur.files import write_atomic, write_image
from convneur.outputs import OutputFolder
from convneur.printing import Console, Progress
from convneur.tasks.backbone_utils import backbone_preprocessing, body_of
from convneur.tasks.detection.drawing import draw_found
from convneur.tasks.detection.evaluation import evaluate_detector
from convneur.tasks.detection.mask_paste import with_transform
from convneur.tasks.detection.metrics import coco_results
from convneur.tasks.detection.models import WITH_MASKS
from convneur.tasks.detection.report import DetectorEvaluation
from convneur.tasks.detection.saved import load_detector, save_detector
from convneur.tasks.features import BodyFeatures
from convneur.tasks.predictor import Predictor, Saver
from convneur.tasks.results import Prediction
from convneur_options.use import EvaluateOptions, PredictOptions

SCORE = 0.5  # from which a detection is drawn and listed


@dataclass(repr=False)
class DetectorPrediction(Prediction):
    """What a detector finds on one image.

    Attributes:
        results: All detections, in COCO's form, the surest first.
        classes: Names.
        category_ids: Their numbers.
        least: Score from which a detection is drawn and listed.
        with_masks: Whether detections have masks.
    """

    results: list[dict[str, Any]]
    classes: list[str]
    category_ids: list[int]
    least: float = SCORE
    with_masks: bool = False

    @property
    def sure(self) -> list[dict[str, Any]]:
        """Detections that are listed."""
        return [each for each in self.results if each["score"] >= self.least]

    @property
    def boxes(self) -> Tensor:
        """Corners (n, 4): left, top, right, bottom, in pixels of the image."""
        corners = torch.tensor([each["bbox"] for each in self.sure]).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        return corners

    @property
    def labels(self) -> list[str]:
        """Classes of the boxes."""
        names = dict(zip(self.category_ids, self.classes, strict=True))
        return [names[each["category_id"]] for each in self.sure]

    @property
    def scores(self) -> Tensor:
        """Of the boxes (n,), from high to low."""
        return torch.tensor([each["score"] for each in self.sure])

    @property
    def masks(self) -> npt.NDArray[np.bool_] | None:
        """Pixels of what is in each box (n, H, W), H and W those of the image; None of a detector without masks."""
        if not self.with_masks:
            return None
        shapes = [each["segmentation"] for each in self.sure]
        height, width = shapes[0]["size"] if shapes else self.image.size[::-1]
        return decode_masks(shapes, height, width).astype(bool)

    def to_dict(self) -> dict[str, Any]:
        """File and objects: label, score, box with corners, and of a detector with masks ``segmentation``.

        That is the mask in COCO's run lengths, which ``pycocotools.mask.decode`` takes: ``size`` [H, W] and ``counts``.
        """
        objects = [
            {"label": label, "score": round(float(each["score"]), 6), "box": [round(side, 2) for side in box]}
            | ({"segmentation": each["segmentation"]} if self.with_masks else {})
            for label, each, box in zip(self.labels, self.sure, self._corners(), strict=True)
        ]
        return {"file": self.file, "objects": objects}

    def _corners(self) -> list[list[float]]:
        sides = [each["bbox"] for each in self.sure]
        return [[x, y, x + width, y + height] for x, y, width, height in sides]

    def plot(self) -> Image.Image:
        """The image with boxes, names and masks."""
        return draw_found(self.image, self.sure, self.classes, self.category_ids)


class DetectorSaver(Saver):
    """A picture of each image, and ``detections.json``: all of them, in COCO's form with the names of files."""

    def __init__(self, folder: OutputFolder) -> None:
        super().__init__(folder)
        (self.path,) = folder.free("detections", [".json"])
        self.results: list[dict[str, Any]] = []

    def __call__(self, found: DetectorPrediction) -> dict[str, str]:
        """Draw it."""
        self.results += [each | {"file_name": found.file} for each in found.results]
        (picture,) = self.folder.free(Path(found.file).stem, [".png"])
        write_image(picture, found.plot())
        return {"picture": str(picture)}

    def finish(self) -> None:
        """Write what was found."""
        write_atomic(self.path, json.dumps(self.results) + "\n")


@dataclass(repr=False)
class Detector(Predictor):
    """A detector, with masks or without.

    Attributes:
        model: Images, a list of (3, H, W) in 0 to 1 -> boxes, labels from 1 on, scores.
        arguments: Of `create_detector`, that create it.
        classes: Names.
        category_ids: Their numbers in the data it learned from.
        source: Where it was loaded from.
    """

    model: nn.Module
    arguments: dict[str, Any]
    classes: list[str]
    category_ids: list[int]
    source: str | None = None
    name: str = field(init=False)

    noun: ClassVar[str] = "a detector"
    uses: ClassVar[frozenset[str]] = frozenset("image_size workers max_megapixels val_share seed part score".split())

    def __post_init__(self) -> None:
        self.name = full_name(self.arguments["kind"], self.arguments["backbone"])

    @property
    def with_masks(self) -> bool:
        """Whether it predicts masks."""
        return self.arguments["kind"] in WITH_MASKS

    @classmethod
    def load(cls, source: str, trust: bool = False) -> Detector:
        """Load the folder of a run or model."""
        saved = load_detector(source)
        return cls(saved.model, saved.arguments, saved.classes, saved.category_ids, source)

    def _save(self, folder: Path, card: str) -> None:
        """As `convneur.tasks.detection.save_detector`."""
        save_detector(self.model, folder, self.arguments, self.classes, self.category_ids, card)

    def at_size(self, image_size: int | None, model: nn.Module | None = None) -> nn.Module:
        """The model, or another with its arguments, that resizes images to another size; that of their shorter side.

        It is a copy, with the same layers: the next call may ask for another size, and another thread at the same time.
        """
        made: Mapping[str, int] = {"min_size": 800, "max_size": 1333} | self.arguments
        size = image_size or made["min_size"]
        longest = round(made["max_size"] * size / made["min_size"])
        return with_transform(self.model if model is None else model, min_size=(size,), max_size=longest)

    def saver(self, folder: OutputFolder) -> DetectorSaver:
        """Pictures, and a list of all that is found."""
        return DetectorSaver(folder)

    def preprocessing(self, image_size: int | None = None) -> Preprocessing:
        """What timm says of the backbone, with the detector's mean and deviation of pixels."""
        transform: Any = self.model.get_submodule("transform")
        backbone = self.arguments["backbone"]
        return backbone_preprocessing(backbone, transform.image_mean, transform.image_std, image_size)

    def feature_module(self) -> BodyFeatures:
        """The backbone."""
        return BodyFeatures(body_of(self.model))

    @property
    def architecture(self) -> tuple[str, dict[str, Any]]:
        """Of the backbone."""
        return self.arguments["backbone"], self.arguments.get("backbone_args") or {}

    def _predict(
        self, images: Any, options: PredictOptions, model: nn.Module, device: torch.device
    ) -> Iterator[Prediction | tuple[str, str]]:
        workers = min(len(images) // 4, default_workers()) if options.workers is None else options.workers
        model = with_transform(self.at_size(options.image_size, model), pasting=False)
        for batch in in_order(EvalObjects(ImageCache(images, options.max_pixels)), collate_objects, 1, workers):
            yield from batch.unreadable
            if batch.unreadable:
                continue
            index, image = int(batch.indices[0]), batch.images[0]
            with torch.inference_mode():
                found = {key: value.cpu() for key, value in model([image.to(device)])[0].items()}
            results = coco_results(index + 1, found, self.category_ids, (image.shape[1], image.shape[2]))
            yield DetectorPrediction(
                images.name(index),
                partial(images.picture, index, options.max_pixels),
                results,
                self.classes,
                self.category_ids,
                SCORE if options.score is None else options.score,
                self.with_masks,
            )

    def _open(self, data: str, options: EvaluateOptions) -> ObjectSource:
        return open_objects(data, options.part, self._known(), self.with_masks, options.val_share, options.seed or 0)

    def _renumbered(self, source: ObjectSource) -> ObjectSource:
        return objects_of(source, self._known())

    def _known(self) -> list[str]:
        return [name.strip() for name in self.classes]  # as they are read now

    def _evaluate(
        self, source: ObjectSource, options: EvaluateOptions, model: nn.Module, device: torch.device, console: Console
    ) -> DetectorEvaluation:
        """Evaluate on the held-out images, one at a time."""
        if self.with_masks:
            source.val.check_masks(source.classes)
        workers = default_workers() if options.workers is None else options.workers
        loader = in_order(EvalObjects(ImageCache(source.val, options.max_pixels)), collate_objects, 2, workers)
        model = self.at_size(options.image_size, model)
        with Progress(console=console, transient=True) as progress:
            batches = progress.track(loader, len(loader), description="evaluating")
            answers = evaluate_detector(
                model, source.val, source.classes, source.category_ids, batches, device, self.with_masks
            )
        return DetectorEvaluation(self.name, answers, source.classes, source.category_ids, options.max_pixels)


def full_name(kind: str, backbone: str) -> str:
    """``mask_rcnn`` and a backbone as people say it."""
    words = {"rcnn": "R-CNN", "retinanet": "RetinaNet", "fcos": "FCOS"}
    return f"{' '.join(words.get(word, word.title()) for word in kind.split('_'))} with {backbone}"
