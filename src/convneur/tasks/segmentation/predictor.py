"""A trained segmentation model in use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from PIL import Image
from torch import nn

from convneur.data.decode import UnreadableImageError
from convneur.data.known_classes import pixels_of
from convneur.data.loading import ImageCache, default_workers
from convneur.data.module import in_order
from convneur.data.semantic import IGNORED, MaskEncoding, PixelSource, open_pixels
from convneur.data.semantic.loading import MEAN, STD, EvalPixels, listed
from convneur.data.semantic.masks import ClassMap
from convneur.data.transforms import Preprocessing
from convneur.export import ExportMetadata, Runtime, export_model, load_exported
from convneur.export.checked import Exportable
from convneur.export.formats import is_segmenter
from convneur.files import StrPath, write_atomic, write_image
from convneur.models.metadata import check_labels, within
from convneur.outputs import OutputFolder
from convneur.printing import Console, Progress, printable
from convneur.tasks.backbone_utils import backbone_preprocessing
from convneur.tasks.features import BodyFeatures
from convneur.tasks.predictor import Predictor, Saver
from convneur.tasks.results import EvaluationResult, Prediction
from convneur.tasks.segmentation.evaluation import evaluate_segmenter
from convneur.tasks.segmentation.inference import check_inference, segment
from convneur.tasks.segmentation.report import SegmenterEvaluation, marked
from convneur.tasks.segmentation.saved import encoding_of, inference_of, load_segmenter, save_segmenter
from convneur_options.segmentation import Inference
from convneur_options.use import EvaluateOptions, ImageOptions, PredictOptions

EXPORTED = 320  # pixels a side that a model is traced and checked at
NAMES = {"semantic_fpn": "Semantic FPN", "upernet": "UPerNet", "unet": "U-Net", "deeplabv3plus": "DeepLabV3+"}


@dataclass(repr=False)
class SegmenterPrediction(Prediction):
    """The class of every pixel of one image.

    Attributes:
        mask: (H, W) numbers of the classes.
        code: Classes and colours.
    """

    mask: ClassMap
    code: MaskEncoding

    @property
    def shares(self) -> dict[str, float]:
        """Of the pixels, by class, of those that occur."""
        classes = self.code.classes
        counts = np.bincount(self.mask.ravel(), minlength=IGNORED + 1)[: len(classes)]
        return {classes[n]: round(float(counts[n] / self.mask.size), 6) for n in np.flatnonzero(counts).tolist()}

    def to_dict(self) -> dict[str, Any]:
        """File and shares."""
        return {"file": self.file, "shares": self.shares}

    def plot(self) -> Image.Image:
        """The image with the classes in their colours, and a legend."""
        return marked(self.image, self.mask, self.code)


class SegmenterSaver(Saver):
    """``NAME.png`` has classes as numbers, with a palette of their colours, ``NAME-overlay.jpg`` shows them.

    ``classes.txt`` has their names.
    """

    def __init__(self, folder: OutputFolder, code: MaskEncoding) -> None:
        super().__init__(folder)
        (names,) = folder.free("classes", [".txt"])
        write_atomic(names, "".join(f"{printable(name)}\n" for name in code.classes))

    def __call__(self, found: SegmenterPrediction) -> dict[str, str]:
        """Write both."""
        mask, shown = self.folder.free(Path(found.file).stem, [".png", "-overlay.jpg"])
        write_image(mask, found.code.picture(found.mask))
        write_image(shown, found.plot(), quality=90)
        return {"mask": str(mask), "overlay": str(shown)}


@dataclass(repr=False)
class SegmentationPredictor(Predictor):
    """A segmentation model.

    Attributes:
        model: Normalised images (B, 3, H, W) -> logits (B, classes, H, W).
        arguments: Of `create_segmenter`, that create it.
        code: Classes and colours.
        inference: How it is asked.
        source: Where it was loaded from.
    """

    model: Any  # a Segmenter, or a Runtime
    arguments: dict[str, Any]
    code: MaskEncoding
    inference: Inference
    source: str | None = None
    name: str = field(init=False)
    classes: list[str] = field(init=False)

    noun: ClassVar[str] = "a segmentation model"
    uses: ClassVar[frozenset[str]] = frozenset(
        "image_size workers max_megapixels val_share seed part window scales flip strict".split()
    )
    smallest_size: ClassVar[int] = 0
    missing: ClassVar[tuple[str, str]] = ("", "; one that is marked all the same counts as 0 in mIoU")

    def __post_init__(self) -> None:
        self.name = full_name(self.arguments["decoder"], self.arguments["backbone"])
        self.classes = list(self.code.classes)

    @classmethod
    def load(cls, source: str, trust: bool = False) -> SegmentationPredictor:
        """Load the folder of a run or model, or a file of ``convneur export``.

        Raises:
            FileNotFoundError: If there is no such model.
            ValueError: If it cannot be loaded, or would run code and ``trust`` is not set.
        """
        if is_segmenter(source):
            return cls._of_file(source, trust)
        saved = load_segmenter(source)
        return cls(saved.model, saved.arguments, saved.code, saved.inference, source)

    @classmethod
    def _of_file(cls, source: str, trust: bool) -> SegmentationPredictor:
        """An exported file, which says how it is asked as a folder does."""
        runtime, config, labels = load_exported(source, trust)
        kept = cast(Runtime, runtime).segmenter or {}
        with within(f"{source}: its metadata segmenter"):
            classes = check_labels(labels, config["num_classes"], "segmenter")
            code = encoding_of(classes, kept.get("colours"))
            inference = inference_of(kept.get("inference"), "inference")
            arguments = {name: printable(str(kept.get(name))) for name in ("decoder", "backbone")}
        return cls(runtime, arguments, code, inference, source)

    def exportable(self) -> Exportable:
        """The model and what its file says of itself: classes, colours, and how it is asked."""
        config = vars(self.preprocessing(EXPORTED)) | {
            "architecture": self.arguments["backbone"],
            "num_classes": len(self.classes),
        }
        kept = {
            "decoder": self.arguments["decoder"],
            "backbone": self.arguments["backbone"],
            "colours": np.asarray(self.code.colours).tolist(),
            "inference": vars(self.inference) | {"scales": list(self.inference.scales)},
        }
        return Exportable(self.model, ExportMetadata(config, self.classes, kept))

    def export(self, path: StrPath, **options: Any) -> Path:
        """Write a file for another runtime: ONNX, OpenVINO, or PyTorch, by the end of its name.

        It takes normalised images (B, 3, H, W) and gives logits (B, classes, H, W) and the classes (B, H, W).

        Args:
            path: Of the file: ``.onnx``, ``.xml`` or ``.pt2``.
            **options: Of `convneur.export.export_model`.

        Returns:
            The file that is to be loaded.
        """
        model, metadata, _ = self.exportable()
        return export_model(model, Path(path), metadata, **options)[-1]

    def _save(self, folder: Path, card: str) -> None:
        """As `convneur.tasks.segmentation.save_segmenter`."""
        save_segmenter(self.model, folder, self.arguments, self.code, self.inference, card)

    def saver(self, folder: OutputFolder) -> SegmenterSaver:
        """Masks, and pictures with them."""
        return SegmenterSaver(folder, self.code)

    def how(self, options: ImageOptions) -> Inference:
        """How to ask the model: as it was saved, but for the options; of a small tile a quarter a side is margin."""
        given: dict[str, Any] = {"size": options.image_size, "window": options.window, "flip": options.flip or None}
        given["scales"] = tuple(options.scales) if options.scales else None
        given = {name: value for name, value in given.items() if value is not None}
        if given.get("window"):
            given["margin"] = min(self.inference.margin, given["window"] // 4)
        return check_inference(replace(self.inference, **given))

    def preprocessing(self, image_size: int | None = None) -> Preprocessing:
        """What timm says of the backbone, with our mean and deviation of pixels."""
        return backbone_preprocessing(self.arguments["backbone"], MEAN, STD, image_size)

    def feature_module(self) -> BodyFeatures:
        """The backbone."""
        if isinstance(self.model, Runtime):
            raise ValueError(f"{self.source} is a file that answers and has no features; give the model itself")
        return BodyFeatures(self.model.body)

    @property
    def architecture(self) -> tuple[str, dict[str, Any]]:
        """Of the backbone."""
        return self.arguments["backbone"], self.arguments.get("backbone_args") or {}

    def _predict(
        self, images: Any, options: PredictOptions, model: nn.Module, device: torch.device
    ) -> Iterator[Prediction | tuple[str, str]]:
        how = self.how(options)
        for index in range(len(images)):
            try:
                picture = ImageCache(images, options.max_pixels)[index]
            except (UnreadableImageError, OSError) as error:
                yield images.name(index), str(error)
                continue
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
            mask = segment(model, pixels, how, device).numpy()
            opened = partial(images.picture, index, options.max_pixels)
            yield SegmenterPrediction(images.name(index), opened, mask, self.code)

    def _open(self, data: str, options: EvaluateOptions) -> PixelSource:
        return open_pixels(data, options.val_share, options.seed or 0, options.strict, part=options.part, learns=False)

    def _renumbered(self, source: PixelSource) -> PixelSource:
        return pixels_of(source, self.classes)

    def _judged_classes(self, source: PixelSource, found: Any, result: EvaluationResult) -> list[str]:
        counts = result.answers.confusion.sum(1).tolist()
        return [name for name, count in zip(self.classes, counts, strict=True) if count]

    def _evaluate(
        self, source: PixelSource, options: EvaluateOptions, model: nn.Module, device: torch.device, console: Console
    ) -> SegmenterEvaluation:
        """Evaluate on the held-out images, one at a time."""
        code, how = source.code, self.how(options)
        images = EvalPixels(ImageCache(source.val, options.max_pixels), code, options.strict)
        workers = default_workers() if options.workers is None else options.workers
        loader = in_order(images, listed, 2, workers)
        with Progress(console=console, transient=True) as progress:
            batches = progress.track(loader, len(loader), description="evaluating")
            answers = evaluate_segmenter(model, len(code.classes), batches, how, device)

        def look(index: int) -> tuple[Image.Image, ClassMap, ClassMap]:
            picture, truth, _ = images.pair(index)
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
            return picture, truth.numpy(), segment(model, pixels, how, device).numpy()

        return SegmenterEvaluation(self.name, answers, code, look, source.val.name)


def full_name(decoder: str, backbone: str) -> str:
    """``upernet`` and a backbone as people say it."""
    return f"{NAMES.get(decoder, decoder.title())} with {backbone}"
