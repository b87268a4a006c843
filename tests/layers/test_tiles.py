"""Inference in tiles, in memory that is kept, gives what the modules give."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

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
    norm, mlp = parts
    x = torch.randn(shape)
    kept = x.clone()
    with torch.no_grad():
        torch.testing.assert_close(tiles.norm_mlp(x, norm, mlp), mlp(norm(x)))
    assert torch.equal(x, kept), "the input is left alone"


def test_the_hidden_map_takes_no_more_memory_than_a_tile(parts, monkeypatch):
    """Else nothing would be gained."""
    monkeypatch.setattr(tiles, "TILE_BYTES", 10 * 4 * 6 * 4)
    monkeypatch.setattr(tiles, "_kept", threading.local())
    norm, mlp = parts
    with torch.no_grad():
        tiles.norm_mlp(torch.randn(1, 5, 5, 6), norm, mlp)
        kept = tiles._kept.memory
        assert len(kept) == 10 * 4 * 6 * 4
        tiles.norm_mlp(torch.randn(2, 9, 9, 6), norm, mlp)
        assert tiles._kept.memory is kept, "the same for every block and image"


def test_kept_memory_serves_every_mode_thread_and_precision(parts, monkeypatch):
    monkeypatch.setattr(tiles, "_kept", threading.local())
    norm, mlp = parts
    x = torch.randn(2, 5, 5, 6)
    expected = mlp(norm(x))
    with torch.inference_mode():
        torch.testing.assert_close(tiles.norm_mlp(x, norm, mlp), expected)
    with torch.no_grad():
        torch.testing.assert_close(tiles.norm_mlp(x, norm, mlp), expected)
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda scale: torch.no_grad()(tiles.norm_mlp)(scale * x, norm, mlp), range(1, 9)))
        for scale, answer in enumerate(answers, start=1):
            torch.testing.assert_close(answer, mlp(norm(scale * x)))
        norm, mlp = norm.double(), mlp.double()
        torch.testing.assert_close(tiles.norm_mlp(x.double(), norm, mlp), mlp(norm(x.double())))
        torch.testing.assert_close(
            torch.vmap(lambda image: tiles.norm_mlp(image, norm, mlp))(x.double()), mlp(norm(x.double()))
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_decides_on_the_precision(parts, dtype):
    norm, mlp = parts
    x = torch.randn(2, 5, 5, 6)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        assert tiles.norm_mlp(x, norm, mlp).dtype == dtype


def test_hooks_see_whole_maps_that_nothing_writes_to_afterwards(parts, monkeypatch):
    norm, mlp = parts
    kept: list[Tensor] = []
    hook = mlp.fc1.register_forward_hook(lambda *call: kept.append(call[2]))
    x = torch.randn(2, 5, 5, 6)
    with torch.no_grad():
        tiles.norm_mlp(x, norm, mlp)
        hook.remove()
        torch.testing.assert_close(kept[0], mlp.fc1(norm(x)))


class Doubled(nn.Linear):
    """Stands for an adapter that somebody put in place of a linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_what_was_put_in_place_of_a_part_is_used(parts):
    norm, mlp = parts
    x = torch.randn(2, 5, 5, 6)
    mlp.fc2 = Doubled(24, 6)
    with torch.no_grad():
        torch.testing.assert_close(tiles.norm_mlp(x, norm, mlp), mlp(norm(x)))
    mlp.act = nn.Tanh()
    with torch.no_grad():
        torch.testing.assert_close(tiles.norm_mlp(x, norm, mlp), mlp(norm(x)))
    mlp.act = nn.GELU(approximate="tanh")
    with torch.no_grad():
        torch.testing.assert_close(tiles.norm_mlp(x, norm, mlp), mlp(norm(x)), rtol=0, atol=1e-7)
