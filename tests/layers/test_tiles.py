"""Inference in tiles and in place gives what the modules give."""

from __future__ import annotations

import pytest
import torch
from timm.layers import Mlp
from torch import Tensor, nn

from convneur.layers import tiles


@pytest.fixture
def parts() -> tuple[nn.LayerNorm, Mlp]:
    torch.manual_seed(0)
    return nn.LayerNorm(6), Mlp(6, 24)


@pytest.mark.parametrize("shape", [(1, 1, 1, 6), (2, 5, 3, 6), (3, 7, 7, 6), (0, 4, 4, 6)])
@pytest.mark.parametrize("pixels", [1, 4, 147])
def test_tiles_of_any_size_give_the_whole(parts, shape, pixels, monkeypatch):
    monkeypatch.setattr(tiles, "TILE_BYTES", pixels * 4 * 6 * 4)
    monkeypatch.setattr(tiles, "WHOLE_BYTES", 1)
    norm, mlp = parts
    x = torch.randn(shape)
    kept = x.clone()
    with torch.no_grad():
        torch.testing.assert_close(tiles.norm_mlp(x, norm, mlp), mlp(norm(x)))
    assert torch.equal(x, kept), "the input is left alone"


def test_a_large_map_is_never_hidden_as_a_whole(parts, monkeypatch):
    """Else nothing would be gained."""
    monkeypatch.setattr(tiles, "TILE_BYTES", 10 * 4 * 6 * 4)
    monkeypatch.setattr(tiles, "WHOLE_BYTES", 20 * 4 * 6 * 4)
    norm, mlp = parts
    seen: list[int] = []

    class Watching(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.shape[:-1].numel())
            return super().forward(x)

    mlp.fc2 = Watching(24, 6)
    with torch.no_grad():
        tiles.norm_mlp(torch.randn(1, 5, 5, 6), norm, mlp)
        tiles.norm_mlp(torch.randn(1, 4, 4, 6), norm, mlp)
    assert seen == [10, 10, 5, 16]
    tiles.norm_mlp(torch.randn(1, 5, 5, 6), norm, mlp)
    assert seen[4:] == [25], "training keeps the hidden map anyway"


def test_hooks_see_whole_maps_that_nothing_writes_to_afterwards(parts, monkeypatch):
    monkeypatch.setattr(tiles, "WHOLE_BYTES", 1)
    norm, mlp = parts
    kept: list[Tensor] = []
    hook = mlp.fc1.register_forward_hook(lambda *call: kept.append(call[2]))
    x = torch.randn(2, 5, 5, 6)
    with torch.no_grad():
        tiles.norm_mlp(x, norm, mlp)
        hook.remove()
        torch.testing.assert_close(kept[0], mlp.fc1(norm(x)))


def test_another_activation_is_used(parts):
    norm, mlp = parts
    mlp.act = nn.Tanh()
    x = torch.randn(2, 5, 5, 6)
    with torch.no_grad():
        torch.testing.assert_close(tiles.norm_mlp(x, norm, mlp), mlp(norm(x)))
    mlp.act = nn.GELU(approximate="tanh")
    with torch.no_grad():
        torch.testing.assert_close(tiles.norm_mlp(x, norm, mlp), mlp(norm(x)), rtol=0, atol=1e-7)
