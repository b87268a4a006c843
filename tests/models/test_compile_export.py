"""torch.compile and torch.export: whole graph, dynamic batch and size, same numbers, same gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from convneur.models import VARIANTS
from tests.models.builders import create, stirred

SHAPES = [(1, 64, 64), (3, 96, 128), (2, 101, 75)]
# AUTO rather than named dimensions: the edge of the last pooling window gives conditions that hold at every size
# and that the solver for named dimensions cannot prove. Not strict, which is the default from PyTorch 2.7 on: the
# strict tracing of 2.6 stumbles over such dimensions.
DYNAMIC = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}


def exports_with_dynamic_batch_and_size(model: nn.Module) -> None:
    images = (torch.randn(2, 3, 96, 64),)
    exported = torch.export.export(model, images, dynamic_shapes=(DYNAMIC,), strict=False).module()
    with torch.inference_mode():
        for batch, height, width in SHAPES:
            images = torch.randn(batch, 3, height, width)
            torch.testing.assert_close(exported(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_export_with_dynamic_batch_and_size():
    exports_with_dynamic_batch_and_size(stirred(dims=(8, 16), depths=(1, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_export_of_every_variant(name):
    exports_with_dynamic_batch_and_size(create(name).eval())


def test_exports_know_no_operation_of_ours():
    """`convneur export` alone keeps them: a file must load where this package is missing."""
    exported = torch.export.export(stirred(dims=(8, 16), depths=(1, 1)), (torch.randn(1, 3, 64, 64),), strict=False)
    assert not [node for node in exported.graph.nodes if "convneur" in str(node.target)]


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


def training_step(model: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the weights after a step of gradient descent."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    logits = model(images)
    logits.square().mean().backward()
    optimizer.step()
    return logits.detach(), {name: value.detach().clone() for name, value in model.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("arguments", [{}, {"memory": {"state": "mlp"}}], ids=str)
def test_a_compiled_training_step_is_the_eager_one(arguments, backend):
    eager = stirred(dims=(8, 16), depths=(1, 1), **arguments).train()
    compiled, images = copy.deepcopy(eager), torch.randn(2, 3, 64, 48)
    torch.compiler.reset()
    compiled.compile(backend=backend, fullgraph=True, dynamic=False)
    torch.testing.assert_close(training_step(compiled, images), training_step(eager, images), rtol=1e-4, atol=1e-4)
