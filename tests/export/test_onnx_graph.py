"""What is changed for ONNX Runtime computes what it did, whatever the network has."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convneur.export import onnx_file
from convneur.export.onnx_graph import NARROW, for_onnx_runtime
from tests.export.builders import small


class Net(nn.Module):
    """Norms and maps of a channels-last map, in all the ways that they may follow one another."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(
            [nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, elementwise_affine=False), nn.LayerNorm(dim, bias=False)]
        )
        self.maps = nn.ModuleList([nn.Linear(dim, 24), nn.Linear(dim, 24, bias=False), nn.Linear(dim, 24)])
        self.last = nn.LayerNorm(dim)
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        x = 3 + x.permute(0, 2, 3, 1)
        found = [one(norm(x)) for norm in self.norms for one in self.maps]
        normed = self.norms[0](x)
        by_token = self.norms[2](x.flatten(1, 2)).mean(1)
        shared = normed.sum(-1) + self.maps[1](normed).sum(-1)
        return torch.stack(found).sum(0) + self.last(x).sum(-1, keepdim=True) + (shared + by_token.sum())[..., None]


def traced(model: nn.Module, *images: Tensor) -> torch.export.ExportedProgram:
    axes = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    return torch.export.export(model.eval(), images, dynamic_shapes=(axes,))


@pytest.mark.parametrize("dim", [12, NARROW + 4])
def test_the_program_stays_the_same_function(dim):
    torch.manual_seed(0)
    model, images = Net(dim), torch.randn(3, dim, 7, 5)
    changed = for_onnx_runtime(traced(model, torch.randn(2, dim, 6, 9)))
    with torch.no_grad():
        torch.testing.assert_close(changed.module()(images), model(images), rtol=1e-4, atol=1e-4)


def test_maps_of_pictures_are_convolutions_and_narrow_norms_written_out():
    names = [str(node.target) for node in for_onnx_runtime(traced(small(), torch.randn(2, 3, 63, 95))).graph.nodes]
    assert "aten.layer_norm.default" not in names
    assert names.count("aten.conv2d.default") > 2 + 2 + 4, "stem and downsampling, depthwise, pointwise"
    wide = [
        str(node.target) for node in for_onnx_runtime(traced(Net(NARROW + 4), torch.randn(2, 132, 6, 9))).graph.nodes
    ]
    assert "aten.layer_norm.default" in wide


class Written(nn.Module):
    """A function of images with a norm and a map."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function, self.norm, self.map = function, nn.LayerNorm(12), nn.Linear(12, 12)
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x.permute(0, 2, 3, 1), self.norm, self.map)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, norm, map: F.linear(norm(x), map.bias),
        lambda x, norm, map: F.linear(x, map.bias),
        lambda x, norm, map: F.linear(norm(x), map.weight, None),
        lambda x, norm, map: torch.ops.aten.linear.default(norm(x), map.weight, bias=map.bias),
        lambda x, norm, map: F.linear(norm(x), map.weight * 2, torch.cat([map.bias[:6], norm.bias[:6]])),
        lambda x, norm, map: F.linear(F.layer_norm(x, (12,), norm.weight * 2, norm.bias), map.weight),
        lambda x, norm, map: F.linear(n := norm(norm.weight.expand(5, 12)), n) + x.mean(),
    ],
)
def test_maps_and_norms_of_any_kind_stay_the_same(function):
    model, images = Written(function), torch.randn(3, 12, 7, 5)
    changed = for_onnx_runtime(traced(model, torch.randn(2, 12, 6, 9)))
    with torch.no_grad():
        torch.testing.assert_close(changed.module()(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", [{"size": (9, 14)}, {"scale_factor": 2.0}], ids=str)
@pytest.mark.parametrize("align_corners", [True, False])
def test_a_map_is_brought_up_as_by_pytorch(tmp_path, how, align_corners):
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

    class Up(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.interpolate(x, mode="bilinear", align_corners=align_corners, **how)

    onnx_file.write(traced(Up(), torch.randn(2, 3, 5, 6)), tmp_path / "up.onnx", {})
    run, _ = onnx_file.load(tmp_path / "up.onnx")
    images = torch.randn(3, 3, 4, 7)
    torch.testing.assert_close(run(images), Up()(images), rtol=1e-5, atol=1e-5)
