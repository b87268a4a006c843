"""A model as a graph: the step that all formats share."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from timm.utils import reparameterize_model
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from convneur.layers import ConvNeurBlock
from convneur.memory import NeuralMemory
from convneur.ops import keep_operations

LEAST = 16  # pixels a side: in smaller images windows of tokens do not fit the feature map, and runtimes differ
INPUT, OUTPUTS = "images", ("logits", "classes")  # the second of models that give a class per pixel
AXES = {0: "batch", 2: "height", 3: "width"}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters say about themselves; their errors still come."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def awkward_size(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """A height and a width about as large, not square, that are hardest on a model with this total stride.

    One short of an even multiple of the stride: every map has odd sides, the last one too, so that pooling windows at
    its edges stand over them.
    """
    height = max(4, size[0] // stride // 2 * 2)
    width = max(height + 2, size[1] // stride // 2 * 2)
    return height * stride - 1, width * stride - 1


class WithClasses(nn.Module):
    """A model that gives logits (B, K, H, W), and beside them the most probable classes (B, H, W), bytes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.total_stride: int = model.stride  # type: ignore[assignment]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (B, C, H, W) -> logits and classes."""
        logits = self.model(images)
        return logits, logits.argmax(1).byte()


class Traced(NamedTuple):
    """A model as a graph, and the smallest height and width of images that it is for."""

    program: ExportedProgram
    smallest: tuple[int, int]


def trace(model: nn.Module, size: tuple[int, int, int], dynamic: bool = True, keep_ops: bool = False) -> Traced:
    """Trace a model with torch.export.

    Args:
        model: In eval mode; it stays as it is.
        size: Channels, height and width that images will mostly have.
        dynamic: For any batch, height and width from some size on; else for any batch alone.
        keep_ops: Let the graph call our operations by name, rather than hold their references.

    Raises:
        ValueError: If the model does not take images of that size, or torch.export cannot follow it, or not at other
            sizes, as where a memory is written in chunks.
    """
    # A trial at a few sizes may not see it, and most formats have nothing that would ask the size when they run.
    if dynamic and any(isinstance(each, NeuralMemory) and each.config.chunk_size for each in model.modules()):
        raise ValueError(
            "a memory written in chunks takes other paths at other image sizes; "
            "export it for one size with --no-dynamic"
        )
    if dynamic and any(
        isinstance(each, nn.AdaptiveAvgPool2d) and each.output_size not in (1, (1, 1)) for each in model.modules()
    ):
        raise ValueError(
            "a layer that pools to a fixed grid has other windows at other image sizes; export it for one size with "
            "--no-dynamic"
        )
    channels, height, width = size
    model = _plain_copy(model)
    with torch.inference_mode():
        model(torch.zeros(1, *size))  # if it cannot take such images it says so best itself
    # What compiles the program takes what it sees here for what always is: with windows that end at the edge of the map
    # it leaves out those that stand over it, and answers are wrong at other sizes. The reverse does no harm.
    traced_size = awkward_size((height, width), getattr(model, "total_stride", 32)) if dynamic else (height, width)
    images = torch.zeros(2, channels, *traced_size)  # 0 and 1 are special cases to torch, and would not be dynamic
    # AUTO: the last pooling window's edge gives conditions which hold at every size, but are not proven of named ones.
    axes: dict[int, Any] = dict.fromkeys(AXES if dynamic else (0,), Dim.AUTO)
    try:
        kept = keep_operations() if keep_ops else contextlib.nullcontext()
        with quiet(), torch.no_grad(), kept:
            traced = torch.export.export(model, (images,), dynamic_shapes=(axes,), strict=False)
    except Exception as error:  # whatever the model does that cannot be traced
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        hint = "; --no-dynamic may help" if dynamic else ""
        raise ValueError(f"torch.export cannot follow this model ({reason[:200]}){hint}") from error
    for node in traced.graph.nodes:
        node.meta.pop("stack_trace", None)  # a file need not name folders of this machine
    if not dynamic:
        return Traced(traced, (height, width))
    high, wide = traced_size
    if not _same(model, traced, torch.randn(1, channels, high * 4 // 3, wide * 3 // 2)):
        raise ValueError("the model takes other paths at other image sizes; export it for one size with --no-dynamic")
    low = _bounds(traced)
    # A map of one pixel can be a path of its own, too.
    while low[0] <= height and low[1] <= width and not _same(model, traced, torch.randn(1, channels, *low)):
        low = (2 * low[0], 2 * low[1])
    if height < low[0] or width < low[1]:
        raise ValueError(
            f"an export for any size takes images from {low[0]} x {low[1]} px on, and these are {height} x {width}; "
            "export it for this one size with --no-dynamic, or give a larger --image-size"
        )
    return Traced(traced, low)


def _plain_copy(model: nn.Module) -> nn.Module:
    """A copy on the CPU whose weights are laid out for no processor; of other families, with timm's folding."""
    if not any(isinstance(each, ConvNeurBlock) for each in model.modules()):
        return reparameterize_model(model).cpu().eval()
    model = copy.deepcopy(model).cpu().eval()
    for block in model.modules():
        if isinstance(block, ConvNeurBlock) and block.fused is not None:
            block.conv_dw, block.norm, block.mlp = block.fused.layers()
            if block.fused.residual:
                nn.init.ones_(block.gamma)
            block.fused = None
    return model


def _bounds(program: ExportedProgram) -> tuple[int, int]:
    """The least height and width by the ranges that torch.export found, which differ with its version."""
    *_, images = program.graph.find_nodes(op="placeholder")
    lowest = {str(side): int(found.lower) for side, found in program.range_constraints.items()}
    low, narrow = (max(LEAST, lowest[str(side)]) for side in images.meta["val"].shape[2:])
    return low, narrow


def logits_of(answer: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The first of what a program gives."""
    return answer if isinstance(answer, Tensor) else answer[0]


@torch.inference_mode()
def _same(model: nn.Module, traced: ExportedProgram, images: Tensor) -> bool:
    try:
        with quiet():
            return torch.allclose(logits_of(traced.module()(images)), logits_of(model(images)), rtol=1e-3, atol=1e-3)
    except Exception:  # guards of the trace, or shapes that do not fit
        return False
