"""A model as a graph: the step that all formats share."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from timm.utils import reparameterize_model
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

INPUT, OUTPUT = "images", "logits"
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


def program(model: nn.Module, size: tuple[int, int, int], fuse: bool = True, dynamic: bool = True) -> ExportedProgram:
    """Trace a model with torch.export.

    Args:
        model: In eval mode; it stays as it is.
        size: Channels, height and width of the images to trace with.
        fuse: Fold what does not depend on the image (timm's ``reparameterize_model``).
        dynamic: For any batch, height and width (of 64 px or more); else for any batch alone.

    Raises:
        ValueError: If torch.export cannot follow the model, or not at other sizes.
    """
    channels, height, width = size
    model = (reparameterize_model(model) if fuse else copy.deepcopy(model)).cpu().eval()
    images = torch.zeros(2, *size)  # sizes of 0 and 1 are special cases to torch, and would not be dynamic
    # AUTO: the last pooling window's edge gives conditions which hold at every size, but are not proven of named ones.
    axes: dict[int, Any] = dict.fromkeys(AXES if dynamic else (0,), Dim.AUTO)
    try:
        with quiet():
            traced = torch.export.export(model, (images,), dynamic_shapes=(axes,), strict=False)
    except Exception as error:  # whatever the model does that cannot be traced
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        hint = "; --no-dynamic may help" if dynamic else ""
        raise ValueError(f"torch.export cannot follow this model ({reason[:200]}){hint}") from error
    if dynamic and not _same(model, traced, torch.randn(1, channels, height * 4 // 3 | 1, width * 3 // 2 | 1)):
        raise ValueError(
            "the model takes other paths at other image sizes, as a memory written in chunks does; "
            "export it for one size with --no-dynamic (dynamic=False)"
        )
    return traced


@torch.inference_mode()
def _same(model: nn.Module, traced: ExportedProgram, images: Tensor) -> bool:
    try:
        with quiet():
            return torch.allclose(traced.module()(images), model(images), rtol=1e-3, atol=1e-3)
    except Exception:  # guards of the trace, or shapes that do not fit
        return False
