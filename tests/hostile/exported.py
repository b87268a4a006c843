"""Small files of other runtimes, made by hand: an image's mean colour times a matrix, and what a stranger may add."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convneur.export import ExportMetadata

CLASSES = ["red", "green", "blue", "grey"]
SIZE = 8
WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4) / 7
METADATA = ExportMetadata(
    {
        "architecture": "mean_colour",
        "num_classes": len(CLASSES),
        "input_size": (3, SIZE, SIZE),
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "fixed_input_size": False,
        "min_input_size": (3, 1, 1),
    },
    CLASSES,
).as_text()


def right(images: Any) -> np.ndarray:
    """Logits (B, 4) of images (B, 3, H, W)."""
    return np.asarray(images).mean((2, 3)) @ WEIGHT


def onnx_model(nodes: Sequence[Any] = (), constants: dict[str, Any] | None = None) -> Any:
    """A model; ``nodes`` stand between its answer, ``real``, and its output, ``logits``."""
    helper = pytest.importorskip("onnx").helper
    from onnx import numpy_helper

    ours = [
        helper.make_node("ReduceMean", ["images", "sides"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["real"]),
        *(nodes or [helper.make_node("Identity", ["real"], ["logits"])]),
    ]
    given = {"sides": np.array([2, 3], np.int64), "weight": WEIGHT, **(constants or {})}
    graph = helper.make_graph(
        ours,
        "mean_colour",
        [helper.make_tensor_value_info("images", 1, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("logits", 1, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in given.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, METADATA)
    return model


def write_onnx(path: Path, model: Any = None) -> Path:
    """A model as a file, without checks of it."""
    path.write_bytes((model or onnx_model()).SerializeToString())
    return path


def write_openvino(path: Path, changed: Callable[[Any, Any], Any] = lambda _, real: real) -> Path:
    """A model as ``.xml`` and ``.bin``; ``changed`` gets OpenVINO's operations and the answer, and gives another."""
    openvino = pytest.importorskip("openvino")
    from openvino import opset13

    images = opset13.parameter([-1, 3, -1, -1], np.float32, name="images")
    mean = opset13.reduce_mean(images, np.array([2, 3]), keep_dims=False)
    real = opset13.matmul(mean, opset13.constant(WEIGHT), False, False)
    model = openvino.Model([opset13.result(changed(opset13, real))], [images], "mean_colour")
    for key, value in METADATA.items():
        model.set_rt_info(value, ["model_info", key])
    openvino.save_model(model, str(path), compress_to_fp16=False)
    return path


class Touch:
    """What makes a file when its pickle is read, as a stranger's would do worse."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def poisoned(archive: Path, copy: Path, part: str | tuple[str, ...], content: bytes) -> Path:
    """A copy of a zip archive in which one part is another; a part may have several names."""
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(copy, "w") as made:
        assert any(name.endswith(part) for name in whole.namelist()), whole.namelist()
        for name in whole.namelist():
            made.writestr(name, content if name.endswith(part) else whole.read(name))
    return copy
