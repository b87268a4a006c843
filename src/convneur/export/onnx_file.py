"""ONNX files, and ONNX Runtime to run them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from convneur.export.onnx_graph import for_onnx_runtime, translations
from convneur.export.program import AXES, INPUT, OUTPUT, quiet

NEEDS = "ONNX needs the packages onnx, onnxscript and onnxruntime; pip install 'convneur[onnx]'"


def require() -> None:
    """Ask for what `write` and `load` need.

    Raises:
        ImportError: If a package is missing.
    """
    try:
        import onnx  # noqa: F401  only to know that it is there
        import onnxruntime  # noqa: F401  only to know that it is there
        import onnxscript  # noqa: F401  only to know that it is there
    except ImportError as error:
        raise ImportError(NEEDS) from error


def write(program: ExportedProgram, path: Path, facts: Mapping[str, str]) -> None:
    """Write one ``.onnx`` file, for ONNX Runtime on a CPU first of all; ``facts`` are its ``metadata_props``."""
    with quiet():
        program = for_onnx_runtime(program)
    translate(program, path, facts, custom_translation_table=translations())


def translate(program: ExportedProgram, path: Path, facts: Mapping[str, str], **options: Any) -> None:
    """Write one ``.onnx`` file of the operations that the program has; ``options`` of `torch.onnx.export`."""
    with quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=(AXES,),
            **options,
        )
    if made is None:
        raise RuntimeError("torch.onnx.export gave no program")
    made.model.metadata_props.update(facts)
    made.save(str(path))


def load(path: Path) -> tuple[Callable[[Tensor], Tensor], dict[str, str]]:
    """What runs the file on a CPU, on as many threads as PyTorch, and its facts.

    Raises:
        ImportError: If ONNX Runtime is missing.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(NEEDS) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that still wait in a loop when all is done would slow down whatever else runs in this process.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(None, {source.name: np.ascontiguousarray(images.numpy())})
        return torch.from_numpy(logits)

    return run, dict(session.get_modelmeta().custom_metadata_map)
