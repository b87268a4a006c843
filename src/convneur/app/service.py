"""What the page asks for, without the page: bytes of a file and name of a model in, numbers and pictures out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from convneur.app.latency import baseline_of, compare
from convneur.app.limits import Limits
from convneur.explain.explanation import ANSWERS, layers_of_stage, numbers_of_stage
from convneur.explain.figures import overlays
from convneur.explain.inspected_model import InspectedModel
from convneur.explain.inspection import StageInspection, inspect
from convneur.models import ConvNeur
from convneur.models.registry_utils import choose
from convneur.reports.page import png

SHOWN = ("gate", "gate-channel", "written-channel", "surprise")  # as many maps as can be told apart in a row
NO_GATES = "This model has no memory with gates: there are no maps to show."
NO_ANSWERS = "Only what its backbone does is shown; convneur predict draws what it finds."


@dataclass(frozen=True)
class Told:
    """What came of an image.

    Attributes:
        numbers: As JSON can hold them; docs/app.md tells the keys.
        picture: The image as the model takes it.
        strips: Per stage, PNG files of its maps; none of a model without gates.
    """

    numbers: dict[str, Any]
    picture: Image.Image
    strips: tuple[bytes, ...]


@dataclass(frozen=True)
class _Opened:
    subject: InspectedModel[nn.Module]
    baseline: ConvNeur | None


class Service:
    """Models that were named beforehand, and no others; one image at a time, whoever asks.

    Args:
        sources: What to open, by the name that clients know.
        opened: Opens a source; models are kept from the first time on.
        limits: Of images.
        device: To compute on.
    """

    def __init__(
        self,
        sources: Mapping[str, str],
        opened: Callable[[str], InspectedModel[nn.Module]],
        limits: Limits,
        device: torch.device,
    ) -> None:
        self.names, self.limits = tuple(sources), limits
        self._sources, self._open, self._device = dict(sources), opened, device
        self._kept: dict[str, _Opened] = {}
        self._turn = Lock()

    def explain(self, file: bytes, name: str) -> Told:
        """Look at an image in a file.

        Raises:
            ValueError: If the model is not one of `names`, or the file is refused; one line that says why.
            OSError: If the model cannot be read.
        """
        choose(name, self.names, "model")
        with self._turn:
            picture = self.limits.decode(file)
            model = self._opened(name)
            image = model.subject.prepare(picture)
            model.subject.refuse_large(image)
            with torch.inference_mode():
                return _look(name, model, image.to(self._device))

    def _opened(self, name: str) -> _Opened:
        if name not in self._kept:
            subject = self._open(self._sources[name])
            subject.backbone.to(self._device)
            self._kept[name] = _Opened(subject, baseline_of(subject.backbone))
        return self._kept[name]


def _look(name: str, model: _Opened, image: Tensor) -> Told:
    subject = model.subject
    shown = subject.picture(image)
    stages = _stages(subject.backbone, image)
    notes = list(subject.notes)
    if not stages:
        notes.append(NO_GATES)
    if not subject.classes and subject.trained:
        notes.append(NO_ANSWERS)
    numbers = {
        "model": name,
        "architecture": subject.name,
        "trained": subject.trained,
        "image_size": list(shown.shape[1:]),
        "answers": _answers(subject, image) if subject.classes else None,
        "stages": [_without_maps(numbers_of_stage(stage)) for stage in stages],
        "latency": compare(subject.backbone, model.baseline, image),
        "notes": notes,
    }
    pixels = (shown.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    return Told(numbers, Image.fromarray(pixels), tuple(_strip(shown, stage) for stage in stages))


def _stages(backbone: nn.Module, image: Tensor) -> tuple[StageInspection, ...]:
    """What the memories did; of a model without gates, nothing."""
    if not isinstance(backbone, ConvNeur) or not backbone.has_gates:
        return ()
    return inspect(backbone, image).stages


def _answers(subject: InspectedModel[nn.Module], image: Tensor) -> list[dict[str, Any]]:
    logits: Tensor = subject.backbone(image)
    best = logits[0].float().softmax(0).topk(min(ANSWERS, len(subject.classes)))
    return [
        {"label": subject.classes[number], "probability": round(probability, 6)}
        for probability, number in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def _without_maps(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The pictures show the maps; as numbers they would be most of an answer."""
    return {
        key: {name: each for name, each in value.items() if name != "map"} if isinstance(value, dict) else value
        for key, value in numbers.items()
    }


def _strip(picture: Tensor, stage: StageInspection) -> bytes:
    layers = [layer for layer in layers_of_stage(stage) if layer.key in SHOWN]
    return png(overlays(picture, layers, [layer.title for layer in layers]))
