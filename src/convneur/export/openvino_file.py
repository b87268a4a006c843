"""OpenVINO files, for processors and graphics of Intel and others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.export import ExportedProgram

from convneur import ops
from convneur.export import onnx_file
from convneur.export.program import quiet
from convneur.export.untrusted import check_openvino

NEEDS = "OpenVINO needs the package openvino; pip install 'convneur[onnx,openvino]'"
SECTION = "model_info"  # where OpenVINO's own tools look


def require() -> None:
    """Ask for what `write` and `load` need.

    Raises:
        ImportError: If a package is missing.
    """
    onnx_file.require()
    try:
        import openvino  # noqa: F401  only to know that it is there
    except ImportError as error:
        raise ImportError(NEEDS) from error


def write(program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    """Write an ``.xml`` file, and a ``.bin`` beside it, by way of ONNX; ``metadata`` are its ``model_info``.

    The program calls our operations by name, so that they can be replaced.
    """
    import openvino

    with quiet():
        program = program.run_decompositions(
            {each.op: each.reference for each in ops.OPERATIONS} | {ops.linear.op: _matmul}
        )
    with TemporaryDirectory() as folder:
        onnx_file.write(program, Path(folder) / "model.onnx", {})
        model = openvino.Core().read_model(str(Path(folder) / "model.onnx"))
        for key, value in metadata.items():
            model.set_rt_info(value, [SECTION, key])
        openvino.save_model(model, str(path), compress_to_fp16=False)


def _matmul(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    """`ops.linear` without a convolution: OpenVINO runs a matmul faster."""
    y = F.linear(x, weight, bias)
    return F.gelu(y) if gelu else y


def load(path: Path) -> tuple[Callable[[Tensor], Tensor], dict[str, str]]:
    """What runs the file on a CPU, in float32 and on as many threads as PyTorch, and its metadata.

    Raises:
        ImportError: If OpenVINO is missing.
        ValueError: If the file could do harm, see `check_openvino`, or is of another kind of model.
    """
    try:
        import openvino
    except ImportError as error:
        raise ImportError(NEEDS) from error
    model = openvino.Core().read_model(str(path))
    check_openvino(model, sum(file.stat().st_size for file in (path, path.with_suffix(".bin"))))
    kept = _metadata_of(model)
    onnx_file.require_outputs(len(model.inputs), len(model.outputs), kept)
    # On processors that have bfloat16 it would be used, and answers differ by a hundredth.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.compile_model(model, "CPU", settings)

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(np.array(compiled(np.ascontiguousarray(images.numpy()))[0]))

    return run, kept


def read_metadata(path: Path) -> dict[str, str]:
    """What the file says of itself, of which nothing is compiled."""
    import openvino

    return _metadata_of(openvino.Core().read_model(str(path)))


def _metadata_of(model: Any) -> dict[str, str]:
    kept = model.get_rt_info(SECTION).value if model.has_rt_info(SECTION) else {}
    return {key: str(value) for key, value in kept.items()}
