"""All that can be told of one image: as maps to look at, and as numbers.

Shape letters: C channels of a stage, H W pixels, h w of a grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convneur.explain.gate_ablation import GateAblation, ablate_gates
from convneur.explain.grad_cam import grad_cam
from convneur.explain.inspection import Inspection, StageInspection, inspect
from convneur.explain.layers import GATES, SHARE, SLOPES, Layer, Scale
from convneur.explain.receptive import receptive_fields
from convneur.models import ConvNeur

LONGEST = 256  # pixels of a receptive field that are drawn
ANSWERS = 5  # classes that are told


@dataclass(frozen=True)
class Explanation:
    """What was seen of an image.

    Attributes:
        picture: (3, H, W) in [0, 1], the image as the model takes it.
        inspection: Gates and memories.
        fields: Receptive fields with memory and without, each (H, W).
        answers: Of a classifier, else None.
        cam: Grad-CAM of the first answer (h, w) on the last map, or None.
    """

    picture: Tensor
    inspection: Inspection
    fields: tuple[Tensor, Tensor]
    answers: GateAblation | None
    cam: Tensor | None

    def stage_layers(self) -> list[list[Layer]]:
        """Maps of each stage, the same ones in each."""
        return [layers_of_stage(stage) for stage in self.inspection.stages]

    def whole_layers(self) -> list[list[Layer]]:
        """Maps of the whole model; those of an inner list belong together."""
        size = (self.picture.shape[1], self.picture.shape[2])
        most = max(float(field.max()) for field in self.fields)
        drawn = [_smaller(field / most if most else field) for field in self.fields]
        told = [
            ("with memory", "Slope of the middle of the last map with respect to each pixel, over the largest."),
            ("without memory", "The same with all gates and shifts held: by the convolutions alone. Hatched: no path."),
        ]
        groups = [
            [
                Layer("receptive-field", f"receptive field {name}", about, _or_nothing(field), size, SLOPES)
                for (name, about), field in zip(told, drawn, strict=True)
            ]
        ]
        if self.cam is not None:
            about = "Where the last map speaks for the first answer, on its own grid, over the most."
            covered = self.inspection.stages[-1].covered
            groups.append([Layer("grad-cam", "Grad-CAM", about, self.cam, covered, SHARE)])
        return groups

    def numbers(self, classes: Sequence[str]) -> dict[str, Any]:
        """As JSON can hold them; the keys are told in docs/explain.md."""
        whole, local = self.fields
        total = float(whole.sum())
        told: dict[str, Any] = {
            "image_size": [self.picture.shape[1], self.picture.shape[2]],
            "stages": [numbers_of_stage(stage) for stage in self.inspection.stages],
            "receptive_field": {
                "half_radius_with_memory": self._half_radius(whole),
                "half_radius_without": self._half_radius(local),
                "share_beyond_convolutions": float(whole[local == 0].sum()) / total if total else None,
            },
        }
        if self.answers is not None:
            told["answers"] = [
                {"label": classes[label], "probability": round(float(self.answers.probabilities[label]), 6)}
                for label in self.answers.probabilities.topk(min(ANSWERS, len(classes))).indices.tolist()
            ]
            told["change_of_first_answer"] = {
                "flat": [self.answers.change(each) for each in self.answers.flat],
                "unwritten": None
                if self.answers.unwritten is None
                else [self.answers.change(each) for each in self.answers.unwritten],
            }
        return told

    def _half_radius(self, field: Tensor) -> float | None:
        """Pixels around the middle of the last map within which half of a receptive field lies; None if it is empty."""
        if not field.any():
            return None
        last = self.inspection.stages[-1]
        y, x = ((side // 2 + 0.5) * last.stride - 0.5 for side in last.map_size)
        rows, columns = (torch.arange(side) for side in field.shape)
        distances = ((rows[:, None] - y).square() + (columns - x).square()).sqrt().flatten()
        nearest = distances.argsort()
        held = field.flatten()[nearest].double().cumsum(0)
        return round(float(distances[nearest[int((held < held[-1] / 2).sum())]]), 1)


def explain_image(model: ConvNeur, image: Tensor, picture: Tensor, classifies: bool, cam: bool) -> Explanation:
    """Look at an image in every way; the model is left as it was.

    Args:
        model: With gates, on the device of the image.
        image: (1, C, H, W), normalised as the model takes it.
        picture: (3, H, W) in [0, 1], the same to look at.
        classifies: Whether the model is a classifier with answers that mean something.
        cam: Whether to make Grad-CAM of a classifier, which needs the package for it.

    Raises:
        ValueError: If the model has no gates or the image does not fit.
        ImportError: If the package is missing.
    """
    inspection, fields = inspect(model, image), receptive_fields(model, image)
    answers = ablate_gates(model, image) if classifies else None
    found = grad_cam(model, image, answers.top) if answers is not None and cam else None
    return Explanation(picture.cpu(), inspection, fields, answers, found)


def layers_of_stage(stage: StageInspection) -> list[Layer]:
    """Maps of a stage."""

    def drawn(key: str, title: str, about: str, values: Tensor, scale: Scale | None = None) -> Layer:
        return Layer(key, title, about, values, stage.covered, scale or Scale.around_zero(values))

    gate = stage.gates_on_map(stage.gate)
    liveliest = int(stage.gate.flatten(1).std(1, correction=0).argmax())
    about = "What local features are multiplied with, mean over the channels: red above 1/2, blue below."
    layers = [
        drawn("gate", "gate", about, gate.mean(0), GATES),
        drawn("gate-channel", f"gate of channel {liveliest}", "The channel that varies most.", gate[liveliest], GATES),
    ]
    if stage.written is not None and stage.unwritten_gate is not None:
        written = stage.gates_on_map(stage.written)
        most = int(stage.written.square().flatten(1).mean(1).argmax())
        without = stage.gates_on_map(stage.unwritten_gate).mean(0)
        layers += [
            drawn(
                "unwritten",
                "gate, unwritten",
                "The gate if nothing had been written into this stage's memory.",
                without,
                GATES,
            ),
            drawn("written", "written", "Gate less unwritten gate, mean over the channels.", written.mean(0)),
            drawn(
                "written-channel", f"written, channel {most}", "The channel that writing changes most.", written[most]
            ),
        ]
    if stage.surprise is not None:
        about = "How far off the memory is about each token."
        if stage.surprise.isnan().any():
            about += " Hatched: tokens of the last chunk, which a causal read never writes."
        scale = Scale.between(stage.surprise)
        layers.append(drawn("surprise", "surprise", about, stage.tokens_on_map(stage.surprise), scale))
    return layers


def numbers_of_stage(stage: StageInspection) -> dict[str, Any]:
    """Of a stage, as JSON can hold them."""
    mean = stage.gate.mean(0)
    told: dict[str, Any] = {
        "grid": list(mean.shape),
        "token_pixels": stage.stride * stage.token_stride,
        "covered": list(stage.covered),
        "gate": _spread(stage.gate) | {"map": _rounded(mean)},
        "written": None,
        "surprise": None,
    }
    if stage.written is not None:
        told["written"] = _spread(stage.written) | {"map": _rounded(stage.written.mean(0))}
        told["written"]["mean_size"] = round(float(stage.written.abs().mean()), 6)
    if stage.surprise is not None:
        known = stage.surprise[~stage.surprise.isnan()]
        told["surprise"] = {
            "map": _rounded(stage.surprise),
            "never_written": stage.surprise.numel() - len(known),
        } | (_spread(known) if len(known) else {})
    return told


def _spread(values: Tensor) -> dict[str, float]:
    return {
        "least": round(float(values.min()), 6),
        "most": round(float(values.max()), 6),
        "mean": round(float(values.mean()), 6),
    }


def _rounded(grid: Tensor) -> list[list[float | None]]:
    """(h, w) as JSON can hold it: null where nothing is known."""
    return [[None if number != number else round(number, 5) for number in row] for row in grid.tolist()]


def _smaller(field: Tensor) -> Tensor:
    """(H, W) with at most `LONGEST` pixels a side, each the mean of what it stands for."""
    shrink = min(1.0, LONGEST / max(field.shape))
    rows, columns = (max(1, round(side * shrink)) for side in field.shape)
    return F.adaptive_avg_pool2d(field[None], (rows, columns))[0]


def _or_nothing(field: Tensor) -> Tensor:
    return field.masked_fill(field == 0, torch.nan)
