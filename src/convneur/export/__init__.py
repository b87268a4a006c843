"""Models as files of other runtimes: ONNX, torch.export, AOTInductor, OpenVINO."""

from convneur.export.check import Agreement, agreement
from convneur.export.facts import Facts
from convneur.export.formats import FORMATS, FormatName, Runtime, export_model, load_exported, open_model

__all__ = [
    "FORMATS",
    "Agreement",
    "Facts",
    "FormatName",
    "Runtime",
    "agreement",
    "export_model",
    "load_exported",
    "open_model",
]
