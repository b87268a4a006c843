"""What people do with any timm model: empty batches, tracers, transforms of torch.func, the package loaded twice."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap
from torch.fx import symbolic_trace
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import convneur
from convneur import MemoryConfig, ops
from convneur.memory import make_memory
from convneur.models import ConvNeur
from tests.memory.builders import flat
from tests.models.builders import create, stirred

KERNELS = pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "references"])
FORMS = pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"memory": {"state": "mlp"}},
        {"preset": "linear"},
        {"preset": "linear", "memory": {"chunk_size": 7}},
        {"preset": "linear", "memory": {"chunk_size": 7, "anchor": "previous"}},
        {"preset": "published"},
        {"fusion": "concat"},
        {"token_mixer": "attention"},
    ],
    ids=str,
)


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 64, 48)


@KERNELS
@FORMS
def test_an_empty_batch_gives_an_empty_batch(arguments, kernels):
    model = stirred(**arguments)
    with ops.use_kernels(kernels):
        with torch.inference_mode():
            assert model(images(0)).shape == (0, 7)
            assert copy.deepcopy(model).fuse()(images(0)).shape == (0, 7)
            assert [tuple(each.shape) for each in model.forward_intermediates(images(0))[1]][-1] == (0, 24, 4, 3)
        model.train()(images(0)).sum().backward()
    assert not any(parameter.grad.any() for parameter in model.parameters() if parameter.grad is not None)


CHUNKS: list[dict[str, Any]] = [{}, {"chunk_size": 4}, {"chunk_size": 4, "read": "causal"}]


@pytest.mark.parametrize(
    "config", [{}, *({"state": state} | chunks for state in ("linear", "mlp") for chunks in CHUNKS)], ids=str
)
def test_so_does_a_memory_with_its_state(config):
    memory = make_memory(16, MemoryConfig(**config))
    tokens = torch.randn(0, 9, 16, requires_grad=True)
    context, left = memory(tokens, None, return_state=True)
    assert context.shape == memory(tokens).shape == (0, 9, 16)
    assert all(len(each) == 0 for each in flat(left))
    assert memory(tokens, left).shape == (0, 9, 16)
    assert memory.surprise(tokens).shape == (0, 9)
    context.sum().backward()
    assert tokens.grad is not None


def test_transforms_of_torch_func_give_what_autograd_gives():
    """As of timm's ConvNeXt: gradients, gradients per image, tangents in both modes of recording."""
    model = create("convneur_m1", num_classes=5, depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)).double().eval()
    x, tangent = torch.randn(2, 2, 3, 64, 96, dtype=torch.float64)
    weights = dict(model.named_parameters())
    frozen = {name: value.detach() for name, value in weights.items()}

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(model, weights, (x,)).square().sum()

    expected = dict(zip(weights, torch.autograd.grad(loss(weights, x), list(weights.values())), strict=True))
    torch.testing.assert_close(grad(loss)(weights, x), expected)
    per_image = vmap(grad(lambda weights, image: loss(weights, image[None])), in_dims=(None, 0))(weights, x)
    torch.testing.assert_close({name: value.sum(0) for name, value in per_image.items()}, expected)

    into_x = torch.autograd.grad(loss(frozen, x.requires_grad_()), x)[0]
    x.requires_grad_(False)
    expected = (into_x * tangent).sum()
    for given in (weights, frozen):
        torch.testing.assert_close(jvp(lambda x, given=given: loss(given, x), (x,), (tangent,))[1], expected)
    with torch.no_grad():
        torch.testing.assert_close(jvp(lambda x: loss(weights, x), (x,), (tangent,))[1], expected)
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(model(forward_ad.make_dual(x, tangent)).square().sum()).tangent
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(vmap(lambda image: model(image[None])[0])(x), model(x))


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated, and says so
@pytest.mark.parametrize("fused", [False, True])
def test_torch_jit_traces_with_gradients_recorded_and_without(fused):
    model, x = stirred(dims=(8, 16), depths=(1, 1)), images()
    expected = model(x)
    if fused:
        model.fuse()
    traced = [torch.jit.trace(model, x)]
    with torch.inference_mode():
        traced.append(torch.jit.trace(model, x))
    for each in traced:
        torch.testing.assert_close(each(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "whole",
    [
        lambda: create("convneur_m1"),
        lambda: timm.create_model("convneur_m1", features_only=True),
        lambda: nn.Sequential(nn.Identity(), create("convneur_m1")),
        lambda: symbolic_trace(create("convneur_m1")),
    ],
    ids=["model", "features", "part", "graph"],
)
def test_torch_jit_script_is_refused_in_one_line(whole):
    with pytest.raises(NotImplementedError, match="write a file with `convneur export`") as caught:
        torch.jit.script(whole())
    assert "\n" not in str(caught.value)


@KERNELS
def test_feature_extractors_of_torchvision(kernels):
    model = stirred()
    nodes = get_graph_node_names(model)[1]
    assert any(name.startswith("stages.1") for name in nodes)
    extractor = create_feature_extractor(model, {"stages.0": "first", "stages.2": "last", "head": "logits"})
    for x in (images(), torch.randn(1, 3, 101, 75)):
        with ops.use_kernels(kernels), torch.inference_mode():
            found, (_, maps) = extractor(x), model.forward_intermediates(x)
            torch.testing.assert_close(found["first"], maps[0], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(found["last"], maps[2], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(found["logits"], model(x), rtol=1e-5, atol=1e-5)


def test_they_are_refused_of_a_fused_model():
    """They put the model into training mode."""
    with pytest.raises(ValueError, match="a fused model cannot be trained"):
        create_feature_extractor(stirred().fuse(), ["stages.0"])


@KERNELS
def test_a_symbolic_trace_gives_what_the_model_gives(kernels):
    model, x = stirred(), torch.randn(2, 3, 101, 75)
    with ops.use_kernels(kernels), torch.inference_mode():
        expected = model(x)
        for each in (model, model.fuse()):
            torch.testing.assert_close(symbolic_trace(each)(x), expected, rtol=1e-5, atol=1e-5)


def test_a_symbolic_trace_learns_what_the_model_learns():
    model, x = stirred(), images()
    graph = symbolic_trace(copy.deepcopy(model))
    for each in (model, graph):
        each.train()(x).square().sum().backward()
    found = {name: parameter.grad for name, parameter in graph.named_parameters()}
    torch.testing.assert_close(found, {name: p.grad for name, p in model.named_parameters()}, rtol=1e-3, atol=1e-4)


def test_the_device_meta():
    with torch.device("meta"):
        model = timm.create_model("convneur_m1", num_classes=5)
    assert model(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, 5)
    assert model.eval().fuse()(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, 5)


TWICE = """
import importlib, shutil, sys, tempfile
from pathlib import Path
import timm, torch
import convneur, convneur.ops

assert not torch.cuda.is_initialized(), "importing convneur starts no GPU"
assert torch.is_grad_enabled()

def logits(model):
    with torch.inference_mode():
        return model(torch.ones(1, 3, 64, 64))

small = {"dims": (8, 16), "depths": (1, 1), "memory_width": 16, "num_classes": 3}
first = timm.create_model("convneur_m1", **small).eval()
torch.nn.init.normal_(first.stages[0].blocks[0].global_branch.up_shift.weight)
before = logits(first)
for name in ("_library", "linear", "memory", "gated_residual", "local_branch", "global_branch"):
    importlib.reload(sys.modules[f"convneur.ops.{name}"])
importlib.reload(convneur.ops)
assert torch.equal(logits(first), before), "after a reload"

package = Path(convneur.__file__).parent
copy = Path(tempfile.mkdtemp())
shutil.copytree(package, copy / "convneur")
OURS = "convneur", "convneur_command", "convneur_options"
for name in OURS[1:]:
    shutil.copytree(package.parent / name, copy / name)
for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
    del sys.modules[name]
sys.path.insert(0, str(copy))
import warnings
warnings.simplefilter("ignore")  # of timm, about names that are registered again
import convneur
assert Path(convneur.__file__).parent.parent == copy
second = timm.create_model("convneur_m1", **small).eval()
assert type(second) is not type(first)
second.load_state_dict(first.state_dict())
assert torch.equal(logits(second), before), "of the second copy"
assert torch.equal(logits(first), before), "of the first one, beside it"
second(torch.ones(1, 3, 64, 64)).sum().backward()
x = torch.ones(1, 2, 2, 4, requires_grad=True)
torch.ops.convneur.linear(x, torch.ones(3, 4), None, True).sum().backward()
assert x.grad is not None
shutil.rmtree(copy)
"""


def test_importing_touches_no_cuda_and_may_be_done_twice_in_a_process():
    source = Path(convneur.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, cwd=source, check=False)
    assert done.returncode == 0, done.stderr


def test_a_model_of_the_class_alone_is_that_of_timm():
    assert ConvNeur(num_classes=3).state_dict().keys() == timm.create_model("convneur_m1").state_dict().keys()
