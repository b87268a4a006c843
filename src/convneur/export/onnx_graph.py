"""Graphs as ONNX Runtime runs them fast on a CPU; the function stays the same.

It has the best code for convolutions in its own blocked layout, and multiplies matrices, adds biases and activates one
operation after the other. So the pointwise maps of feature maps become convolutions again, which ConvNeXt's were to
begin with; its LayerNorm of few channels, which takes longer than that of many, is written out; and maps are brought up
channels-last. Figures are in ``docs/results/speed.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node

# Channels up to which norms are written out.
NARROW = 128
_TO_CHANNELS_LAST, _FROM_CHANNELS_LAST = (0, 2, 3, 1), (0, 3, 1, 2)
_ATEN = torch.ops.aten


def for_onnx_runtime(program: ExportedProgram) -> ExportedProgram:
    """The same program in other operations; the one given is used up."""
    _scale_in_the_next_map(program)
    return program.run_decompositions({_ATEN.linear.default: _convolved, _ATEN.layer_norm.default: _written_out})


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What torch.onnx.export should take for operators of PyTorch."""
    return {_ATEN.upsample_bilinear2d.vec: _brought_up}


def _scale_in_the_next_map(program: ExportedProgram) -> None:
    """Let linear maps do the scaling and shifting of the norm before them."""
    graph, constants = program.graph, _constants(program)
    for norm in graph.find_nodes(op="call_function", target=_ATEN.layer_norm.default):
        x, shape, scale, shift, *others = (*norm.args, None, None)[: max(4, len(norm.args))]
        maps = list(norm.users)
        if norm.kwargs or len(shape) != 1 or not {scale, shift} <= constants:
            continue
        if not all(_reads(node, norm, constants) for node in maps):
            continue
        for node in maps:
            _, weight, bias = (*node.args, None)[:3]
            with graph.inserting_before(node):
                shifted = graph.call_function(_ATEN.mv.default, (weight, shift))
                if bias is not None:
                    shifted = graph.call_function(_ATEN.add.Tensor, (bias, shifted))
                node.args = (norm, graph.call_function(_ATEN.mul.Tensor, (weight, scale)), shifted)
        norm.args = (x, shape, None, None, *others)
    program.graph_module.recompile()


def _reads(node: Node, norm: Node, constants: set[Any]) -> bool:
    """Whether this is a linear map of what the norm gives, with weights that are as they are."""
    if node.target is not _ATEN.linear.default or node.kwargs or node.args[0] is not norm:
        return False
    weight: Any = node.args[1]
    return {weight, *node.args[2:]} <= constants | {None} and weight.meta["val"].ndim == 2


def _constants(program: ExportedProgram) -> set[Any]:
    """The nodes of weights, which come with the program and which it does not change."""
    signature = program.graph_signature
    changed = set(signature.buffers_to_mutate.values())
    names = {
        spec.arg.name
        for spec in signature.input_specs
        if spec.kind is not InputKind.USER_INPUT and spec.target not in changed
    }
    return {node for node in program.graph.find_nodes(op="placeholder") if node.name in names}


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """A linear map of a channels-last feature map (B, H, W, C) as a convolution."""
    if x.ndim != 4 or weight.ndim != 2 or x.dtype is not torch.float32:
        return NotImplemented
    made = F.conv2d(x.permute(_FROM_CHANNELS_LAST), weight[:, :, None, None], bias)
    return made.permute(_TO_CHANNELS_LAST)


def _written_out(
    x: Tensor,
    shape: Sequence[int],
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    eps: float = 1e-5,
    _cudnn: bool = True,
) -> Any:
    """LayerNorm of few channels of a channels-last feature map.

    By operations that ONNX Runtime does not recognise as a LayerNorm again: by a division, and without a power.
    """
    if x.ndim != 4 or len(shape) != 1 or shape[0] > NARROW or x.dtype is not torch.float32:
        return NotImplemented
    centred = x - x.mean(-1, keepdim=True)
    made = centred / ((centred * centred).mean(-1, keepdim=True) + eps).sqrt()
    if scale is None:
        return made if shift is None else made + shift
    # A convolution without neighbours: what follows is one as a rule, and takes its layout over.
    by_channel = F.conv2d(made.permute(_FROM_CHANNELS_LAST), scale[:, None, None, None], shift, groups=shape[0])
    return by_channel.permute(_TO_CHANNELS_LAST)


def _brought_up(x: Any, size: Any, align_corners: bool, scales: Sequence[float] | None) -> Any:
    """Bilinear interpolation of (B, C, h, w), channels-last: three times as fast as by planes."""
    import onnx
    import onnxscript

    op: Any = onnxscript.opset18
    last = op.Transpose(x, perm=_TO_CHANNELS_LAST)
    mode = {"mode": "linear", "coordinate_transformation_mode": "align_corners" if align_corners else "half_pixel"}
    if scales is not None:
        made = op.Resize(last, None, op.Constant(value_floats=[1.0, *scales, 1.0]), **mode)
    else:
        batch, channels = op.Shape(x, start=0, end=1), op.Shape(x, start=1, end=2)
        whole = op.Concat(batch, op.Cast(size, to=onnx.TensorProto.INT64), channels, axis=0)
        made = op.Resize(last, None, None, whole, **mode)
    return op.Transpose(made, perm=_FROM_CHANNELS_LAST)
