"""torch.compile and torch.export: whole graph, dynamic batch and size, same numbers."""

import pytest
import torch

from convneur.models import VARIANTS
from tests.models.builders import create

SHAPES = [(1, 64, 64), (3, 96, 128), (2, 101, 75)]


@pytest.mark.parametrize("name", VARIANTS)
def test_export_with_dynamic_batch_and_size(name):
    model = create(name).eval()
    # AUTO rather than named dimensions: the edge of the last pooling window gives conditions that hold at every size
    # and that the solver for named dimensions cannot prove. Not strict, which is the default from PyTorch 2.7 on: the
    # strict tracing of 2.6 stumbles over such dimensions.
    dynamic = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    images = (torch.randn(2, 3, 96, 64),)
    exported = torch.export.export(model, images, dynamic_shapes=(dynamic,), strict=False).module()
    with torch.inference_mode():
        for batch, height, width in SHAPES:
            images = torch.randn(batch, 3, height, width)
            torch.testing.assert_close(exported(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backend"),
    # The four differ in widths and depths alone, so generating code for one of them is enough.
    [(name, "inductor" if name == "convneur_m1" else "aot_eager") for name in VARIANTS],
)
def test_compile_fullgraph(name, backend):
    model = create(name).eval()
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend=backend)
    with torch.inference_mode():
        images = torch.randn(2, 3, 101, 75)
        torch.testing.assert_close(compiled(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_compile_fullgraph_with_dynamic_batch_and_size():
    """What dynamo captures holds at every size; the code that inductor makes of such a graph is tested above."""
    model = create("convneur_m1").eval()
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    with torch.inference_mode():
        for batch, height, width in SHAPES[1:]:
            images = torch.randn(batch, 3, height, width)
            torch.testing.assert_close(compiled(images), model(images), rtol=1e-4, atol=1e-4)
