"""ONNX files, and ONNX Runtime to run them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from convneur.export.export_metadata import SEGMENTER
from convneur.export.program import AXES, INPUT, OUTPUTS, quiet
from convneur.export.untrusted import LARGEST, check_onnx

NEEDS = "ONNX needs the packages onnx, onnxscript and onnxruntime; pip install 'convneur[onnx]'"
MEMORY = 8 * 2**30  # bytes that all files together may take for what they compute


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


def write(program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    """Write one ``.onnx`` file; ``metadata`` are its ``metadata_props``."""
    with quiet(), _python_dispatcher():
        made = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            optimize=True,  # the default but for PyTorch 2.6
            input_names=[INPUT],
            output_names=OUTPUTS[: len(program.graph_signature.user_outputs)],
            dynamic_shapes=(AXES,),
        )
    if made is None:
        raise RuntimeError("torch.onnx.export gave no program")
    made.model.metadata_props.update(metadata)
    made.save(str(path))


def _python_dispatcher() -> contextlib.AbstractContextManager[None]:
    """For PyTorch 2.6, whose exporter computes with sizes that are not known yet and does not turn this on itself."""
    try:
        from torch._dispatch.python import enable_python_dispatcher
    except ImportError:
        return contextlib.nullcontext()
    return enable_python_dispatcher()


def load(path: Path) -> tuple[Callable[[Tensor], Tensor], dict[str, str]]:
    """What runs the file on a CPU, on as many threads as PyTorch, and its metadata.

    Raises:
        ImportError: If ONNX Runtime is missing, or the package onnx.
        ValueError: If the file could do harm, see `check_onnx`, or is of another kind of model.
    """
    try:
        import onnx  # noqa: F401  for what is checked first
        import onnxruntime
    except ImportError as error:
        raise ImportError(NEEDS) from error
    check_onnx(path)
    _bound_memory()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong is raised, too, and said in one line
    options.add_session_config_entry("session.load_model_format", "ONNX")  # not whatever the content looks like
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that still wait in a loop when all is done would slow down whatever else runs in this process.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Before 1.28, constants are folded without the limit of `_bound_memory`: a file of a few bytes could take it all.
    unbounded = tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 28)
    session = onnxruntime.InferenceSession(
        str(path),
        options,
        providers=["CPUExecutionProvider"],
        enable_fallback=0,
        disabled_optimizers=["ConstantFolding"] if unbounded else None,
    )
    kept = dict(session.get_modelmeta().custom_metadata_map)
    require_outputs(len(session.get_inputs()), len(session.get_outputs()), kept)
    (source,), answer = session.get_inputs(), session.get_outputs()[0]

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run([answer.name], {source.name: np.ascontiguousarray(images.numpy())})
        return torch.from_numpy(logits)

    return run, kept


def require_outputs(inputs: int, outputs: int, metadata: Mapping[str, str]) -> None:
    """Ask for images in and logits out, and for classes beside them of a model that gives a class per pixel.

    Raises:
        ValueError: If there are others.
    """
    wanted = len(OUTPUTS) if SEGMENTER in metadata else 1
    if (inputs, outputs) != (1, wanted):
        told = "one output, as a classifier has" if wanted == 1 else "two outputs, as a segmentation model has"
        raise ValueError(f"it does not have one input and {told}")


def read_metadata(path: Path) -> dict[str, str]:
    """What the file says of itself, of which nothing is run.

    Raises:
        ValueError: If it is too large.
    """
    import onnx

    if path.stat().st_size >= LARGEST:
        raise ValueError("it is larger than the 2 GB that an ONNX file can have")
    return {each.key: each.value for each in onnx.load_model_from_string(path.read_bytes()).metadata_props}


@cache
def _bound_memory() -> None:
    """Let no graph of a few bytes ask for more memory than there is: sizes in it can be worked out as it runs."""
    import onnxruntime

    where = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(where, onnxruntime.OrtArenaCfg({"max_mem": MEMORY}))
