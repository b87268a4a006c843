"""Files of other runtimes from strangers: what is refused before, or right after, a runtime reads them.

Neither ONNX Runtime nor OpenVINO runs code that is in a file. What a file can still do is to name files elsewhere, to
declare far more than it holds, and to never end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

# A file of ours has no loops, and nothing of the kind is needed to classify an image.
LOOPS = frozenset({"Loop", "Scan", "SequenceMap", "TensorIterator"})
LARGEST = 2**31  # bytes of protobuf that a library reads
SMALL = 2**30  # bytes that a program may work out from its own constants, however small its file


def check_onnx(path: Path) -> None:
    """Refuse an ``.onnx`` file with weights outside its folder, declared sizes that it does not hold, or loops.

    Raises:
        ValueError: If something is refused; it says what, without the name of the file.
        ImportError: If the package onnx is missing.
    """
    import onnx

    if path.stat().st_size >= LARGEST:
        raise ValueError("it is larger than the 2 GB that an ONNX file can have")
    model: ModelProto = onnx.load_model_from_string(path.read_bytes())
    if model.functions:  # each may call another one twice, and so on: 30 of them are a billion operations
        raise ValueError(f"it defines a function of its own, {model.functions[0].name}")
    for graph in _graphs(model.graph):
        if graph.sparse_initializer:
            raise ValueError("it has sparse weights, which may be of any size")
        for node in graph.node:
            if node.op_type in LOOPS:
                raise ValueError(f"it has a loop ({node.op_type}), which may never end")
        for tensor in _tensors(graph):
            _check_tensor(tensor, path.parent)


def check_openvino(model: Any, held: int) -> None:
    """Refuse a model that OpenVINO has read but not compiled, if it has loops, or declares far more than it holds.

    Args:
        model: An ``openvino.Model``.
        held: Bytes of its files.

    Raises:
        ValueError: If something is refused; it says what.
    """
    declared = 0
    for operation in model.get_ordered_ops():
        kind = operation.get_type_name()
        if kind in LOOPS:
            raise ValueError(f"it has a loop ({kind}), which may never end")
        for output in operation.outputs():
            # An unknown side, as that of the batch, is none at least: what depends on the images does not count.
            sides = [side.get_min_length() for side in _sides(output.get_partial_shape())]
            declared += math.prod(sides) * max(1, output.get_element_type().size)
    if declared > max(SMALL, 16 * held):
        raise ValueError(f"it declares {declared / 1e9:.1f} GB of numbers in files of {held / 1e6:.1f} MB")


def _sides(shape: Any) -> list[Any]:
    return [] if shape.rank.is_dynamic else list(shape)


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and all those inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _graphs(inner)


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        yield from _constants(node)


def _constants(node: NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
            raise ValueError("it has sparse weights, which may be of any size")
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors


def _check_tensor(tensor: TensorProto, folder: Path) -> None:
    held = _external(tensor, folder) if tensor.data_location else tensor.ByteSize()
    # The smallest number has two bits.
    if min(tensor.dims, default=0) < 0 or math.prod(tensor.dims) > 4 * held:
        shape = " x ".join(map(str, tensor.dims))
        raise ValueError(f"its tensor {tensor.name} is of shape {shape}, of which it holds {held} bytes")


def _external(tensor: TensorProto, folder: Path) -> int:
    """Bytes of a tensor in another file, which must be a file in the same folder."""
    told = {entry.key: entry.value for entry in tensor.external_data}
    place = told.get("location", "")
    file = (folder / place).resolve()
    if not place or not file.is_relative_to(folder.resolve()):
        raise ValueError(f"its tensor {tensor.name} is outside its folder, at '{place}'")
    if not file.is_file():
        raise ValueError(f"its tensor {tensor.name} is in '{place}', which is no file beside it")
    size = file.stat().st_size
    offset = int(told.get("offset") or 0)
    length = int(told.get("length") or size - offset)
    if not 0 <= offset <= offset + length <= size:
        raise ValueError(f"its tensor {tensor.name} has bytes {offset} to {offset + length} of '{place}', of {size}")
    return length
