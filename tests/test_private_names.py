"""Names of torch and timm that are not public (docs/contributing.md lists them): what goes on when they are gone."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

import convneur  # noqa: F401  registers the models
from convneur import ops

ROOT = Path(__file__).parents[1]
WITHOUT = """
import sys
import timm, torch
from timm.models import _features
from torch.autograd import forward_ad
from torch.utils import _python_dispatch, flop_counter

del torch._C._len_torch_dispatch_stack, torch._C._AutoDispatchBelowAutograd, torch._C._functorch.peek_interpreter_stack
del forward_ad._current_level, _python_dispatch.TorchDispatchMode
del _features.feature_take_indices, _features.FeatureGetterNet
torch.ops.mkldnn = object()

import convneur
from convneur import ops
from convneur.layers import guards

guards.torch_module = object()  # torch itself needs its dictionaries of hooks
assert all(operation.unavailable() for operation in ops.OPERATIONS)
assert ops.linear.missing == "this PyTorch has no oneDNN matmul"
assert "this PyTorch is not known" in ops.gated_residual.why_not(*[torch.ones(1, 8, 4, 4)] * 3, None, 1)
"""
RUN = """
torch.manual_seed(0)
model = timm.create_model("convneur_m1", num_classes=5).eval()
for parameter in model.parameters():
    parameter.data += 0.02 * torch.randn_like(parameter)
logits = model(torch.randn(1, 3, 96, 64))
logits.square().sum().backward()
gradient = model.stages[0].blocks[0].global_branch.memory.to_keys.weight.grad
"""


@pytest.mark.slow
def test_without_them_the_package_is_imported_and_references_serve(tmp_path):
    saved = tmp_path / "found.pt"
    code = WITHOUT + RUN + f"torch.save([logits.detach(), gradient], {str(saved)!r})"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=300)
    here: dict = {"timm": timm, "torch": torch}
    with ops.use_kernels(False):
        exec(RUN, here)
    for found, expected in zip(torch.load(saved), (here["logits"].detach(), here["gradient"]), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_contributing_lists_each():
    listed = (ROOT / "docs" / "contributing.md").read_text()
    private = re.compile(r"\b(?:(?:torch|timm)(?:\.\w+)*|forward_ad|torch_module)\.(_[a-zA-Z]\w*[a-z])\b")
    named = {name for file in (ROOT / "src").rglob("*.py") for name in private.findall(file.read_text())}
    assert {"_current_level", "_linear_pointwise", "_global_forward_hooks"} <= named
    assert {name for name in named if name not in listed} == set()
