"""Models as files of other runtimes: ONNX, torch.export, AOTInductor, OpenVINO."""

from convneur.export.check import Agreement, agreement, require_agreement
from convneur.export.checked import ExportResult, export_checked
from convneur.export.export_metadata import ExportMetadata
from convneur.export.formats import FORMATS, FormatName, export_model, load_exported, open_model
from convneur.export.runtime import Runtime
from convneur.export.untrained import untrained

__all__ = [
    "FORMATS",
    "Agreement",
    "ExportMetadata",
    "ExportResult",
    "FormatName",
    "Runtime",
    "agreement",
    "export_checked",
    "export_model",
    "load_exported",
    "open_model",
    "require_agreement",
    "untrained",
]
