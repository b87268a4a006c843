"""What an exported file says of itself: labels and preprocessing, as every format can keep them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch

from convneur.json_files import parse_json
from convneur.models.metadata import ModelMetadata, as_object, within
from convneur_options import __version__

# Names of timm's pretrained_cfg, as all below.
PREPROCESSING = ("input_size", "mean", "std", "interpolation", "crop_pct")
SEGMENTER = "segmenter"
SIZES = ("fixed_input_size", "min_input_size")


@dataclass(frozen=True)
class ExportMetadata:
    """Of a model; every format keeps it as text.

    Attributes:
        config: timm's ``pretrained_cfg``: architecture, number of classes, and what images must look like.
        labels: Names of the classes, if known.
        segmenter: Of a model that gives a class per pixel, what its task keeps of it, as JSON can hold it; None for a
            classifier.
    """

    config: Mapping[str, Any]
    labels: Sequence[str] | None = None
    segmenter: Mapping[str, Any] | None = None

    def as_text(self) -> dict[str, str]:
        """Key and text, the texts JSON except ``architecture`` and ``made_by``; what `from_text` reads."""
        kind = {} if self.segmenter is None else {SEGMENTER: json.dumps(self.segmenter)}
        return kind | {
            "architecture": str(self.config.get("architecture", "")),
            "num_classes": str(self.config["num_classes"]),
            "labels": json.dumps(None if self.labels is None else list(self.labels)),
            "preprocessing": json.dumps({key: self.config[key] for key in PREPROCESSING}),
            "sizes": json.dumps({key: self.config[key] for key in SIZES}),
            "made_by": f"convneur {__version__}, torch {torch.__version__}, timm {timm.__version__}",
        }

    @staticmethod
    def from_text(text: Mapping[str, str]) -> ExportMetadata:
        """The reverse of `as_text`.

        Raises:
            ValueError: If something is missing, for the file was not made here, or is out of range.
        """
        kept = {}
        for key in ("num_classes", "labels", "preprocessing", "sizes"):
            if not isinstance(text, Mapping) or not isinstance(text.get(key), str):
                raise ValueError("it does not say what images and labels it is for; write it with convneur export")
            with within(f"its metadata {key}"):
                kept[key] = parse_json(text[key])
        with within("its metadata"):
            preprocessing, sizes = (as_object(kept[key], key) for key in ("preprocessing", "sizes"))
            config = {"num_classes": kept["num_classes"]}
            for names, given in ((PREPROCESSING, preprocessing), (SIZES, sizes)):
                for name in names:
                    if given.get(name) is None:
                        raise ValueError(f"{name} is missing; write it with convneur export")
                    config[name] = given[name]
            checked = ModelMetadata.checked(config, kept["labels"])
            segmenter = as_object(parse_json(text[SEGMENTER]), SEGMENTER) if SEGMENTER in text else None
        config = {**checked.config, "architecture": str(text.get("architecture", ""))}
        return ExportMetadata(config, checked.labels, segmenter)
