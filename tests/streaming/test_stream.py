"""What strips give is what the whole image gives, for every kind of model, image and interruption."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from convneur import ops
from convneur.data.decode import UnreadableImageError
from convneur.data.semantic.loading import normalised
from convneur.streaming import stream
from convneur.streaming.budget import tile_size
from convneur.streaming.regions import Region, RegionUpsample, Span, spans
from convneur.streaming.stages import substages_of
from convneur.tasks.segmentation import create_segmenter
from tests.models.builders import create
from tests.streaming.builders import picture

SEGMENTER = {"dims": (8, 12, 16, 24), "depths": (1, 1, 2, 1), "memory_width": 16, "ls_init_value": 0.5}
SMALL = {"dims": (8, 12, 16, 24), "depths": (2, 1, 2, 1), "num_classes": 5, "ls_init_value": 0.5}
MODES: list[dict[str, Any]] = [{}, {"heads": 1}]
MODES += [
    {"state": state, "read": read, "anchor": anchor, "chunk_size": size, "max_step": 0.02}
    for state, read, anchor, size in product(
        ("linear", "mlp"), ("global", "causal"), ("initial", "previous"), (None, 37)
    )
    if (size is not None or read == "global") and (state, anchor, size) != ("mlp", "previous", 37)
]


def small(**arguments):
    torch.manual_seed(0)
    return create("convneur_m1", **SMALL | arguments).double().eval()


def whole(model, pixels):
    """What the model says of all at once, from bytes (H, W, C)."""
    count = pixels.shape[2]
    mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if count == 3 else ((0.5,) * count, (0.25,) * count)
    x = torch.from_numpy(pixels).permute(2, 0, 1).double() / 255
    mean, std = (torch.tensor(each, dtype=torch.float64)[:, None, None] for each in (mean, std))
    x = (x - mean) / std
    with torch.inference_mode():
        last, maps = model.forward_intermediates(x[None])
        return model.forward_head(last), [each[0].permute(1, 2, 0).numpy() for each in maps]


def assert_same(found, expected, atol=1e-9):
    logits, maps = expected
    torch.testing.assert_close(found.logits.double(), logits, rtol=0, atol=atol)
    for index, path in found.maps.items():
        np.testing.assert_allclose(np.load(path), maps[index], rtol=0, atol=atol)


@pytest.mark.parametrize("memory", MODES, ids=lambda m: "-".join(str(value) for value in m.values()))
def test_every_memory_gives_what_it_gives_on_the_whole(memory, tmp_path):
    model, pixels = small(memory=memory), picture(203, 118)
    found = stream(model, pixels, tmp_path / "out", out_indices=range(4), tile=(11, 13), progress=False)
    assert sorted(found.maps) == [0, 1, 2, 3]
    assert_same(found, whole(model, pixels))


def test_another_rule_of_write_and_read_is_followed(tmp_path, monkeypatch):
    model, pixels = small(), picture(150, 171)
    before, _ = whole(model, pixels)
    write, read = ops.memory.write, ops.memory.read
    monkeypatch.setattr(ops.memory, "write", lambda keys, values, steps: write(keys, values.abs(), steps))
    monkeypatch.setattr(ops.memory, "read", lambda memory, keys: read(memory, keys) + keys)
    after = whole(model, pixels)
    assert (after[0] - before).abs().max() > 1e-4
    assert_same(stream(model, pixels, tmp_path, out_indices=(3,), tile=(9, 7), progress=False), after)


@pytest.mark.parametrize(
    "arguments",
    [
        {"global_placement": "none"},
        {"global_placement": "per_layer"},
        {"fusion": "gate"},
        {"fusion": "add"},
        {"fusion": "concat"},
        {"preset": "published", "memory": {"max_step": 0.02}},
        {"center_tokens": False, "token_skip": False},
        {"patch_size": 2},
        {"token_strides": (3, 2, 2, 1)},
    ],
    ids=str,
)
def test_every_block_gives_what_it_gives_on_the_whole(arguments, tmp_path):
    model, pixels = small(**arguments), picture(150, 171)
    assert_same(stream(model, pixels, tmp_path, out_indices=(0, 3), tile=(9, 7), progress=False), whole(model, pixels))


@pytest.mark.parametrize("tile", [(1, 1), (5, 3), (3, 32), (32, 20), (1000, 1), (1000, 1000)])
@pytest.mark.parametrize("workers", [1, 3])
def test_neither_tiles_nor_workers_are_seen(tile, workers, tmp_path):
    model, pixels = small(), picture(131, 97)
    found = stream(model, pixels, tmp_path, out_indices=(1,), tile=tile, workers=workers, progress=False)
    assert_same(found, whole(model, pixels))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".convneur-stream",
        "features.npy",
        "logits.npy",
        "stage_1.npy",
        "stream.json",
    ]


def test_a_fused_model_in_single_precision(tmp_path):
    model, pixels = small().float(), picture(140, 200)
    expected = whole(small(), pixels)
    assert_same(stream(model.fuse(), pixels, tmp_path, out_indices=(3,), tile=(10, 16), progress=False), expected, 1e-4)
    assert not model.training


@pytest.mark.parametrize(
    ("size", "token_stride"), [((40, 20), 4), ((41, 19), 4), ((43, 22), 2), ((7, 5), 1), ((9, 3), 4)]
)
def test_a_part_of_a_grid_is_brought_up_as_all_of_it(size, token_stride):
    height, width = grid_size = tuple(-(-side // token_stride) for side in size)
    grid = torch.randn(1, 3, *grid_size, dtype=torch.float64)
    expected = grid if token_stride == 1 else torch.nn.functional.interpolate(grid, size, mode="bilinear")
    for rows, columns in product(spans(size[0], 3), spans(size[1], 4)):
        area = Region(rows, columns)
        upsample = RegionUpsample(area, size, grid_size, token_stride)
        part = upsample(upsample.needed.cut(grid, Region(Span(0, height), Span(0, width))))
        torch.testing.assert_close(
            part, area.cut(expected, Region(Span(0, size[0]), Span(0, size[1]))), rtol=0, atol=1e-12
        )


def test_what_looks_at_the_whole_in_another_way_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="token_mixer='attention'"):
        stream(small(token_mixer="attention"), picture(64, 64), tmp_path, progress=False)
    with pytest.raises(ValueError, match="global_pool='max'"):
        stream(small(global_pool="max"), picture(64, 64), tmp_path, progress=False)


def test_memories_that_rounding_decides_about_are_refused_by_name(tmp_path):
    chunks = {"state": "mlp", "anchor": "previous", "chunk_size": 37, "max_step": 0.02}
    with pytest.raises(ValueError, match=r"state='mlp', anchor='previous' and chunk_size=37 cannot be streamed"):
        stream(small(memory=chunks), picture(64, 64), tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"state='mlp' multiplies rounding .* give model.double\(\)"):
        stream(small(memory={"state": "mlp"}).float(), picture(64, 64), tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"state='mlp'"):
        stream(small(preset="published").float(), picture(64, 64), tmp_path, progress=False)
    found = stream(
        small(preset="published", global_placement="none").float(), picture(64, 64), tmp_path, progress=False
    )
    assert found.logits is not None


@pytest.mark.parametrize("name", ["convneur_m1", "convneur_m4"])
def test_neither_width_nor_height_of_an_image_makes_a_tile_larger(name):
    substages = substages_of(create(name))
    for number, substage in enumerate(substages):
        entering, side = (substages[number - 1].channels, 400_000 >> number + 2) if number else (3, 100_000)
        rows, columns = tile_size(substage, (side, side), entering, 4, 2 * 10**9)
        assert (rows, columns) == tile_size(substage, (side // 10, side), entering, 4, 2 * 10**9)
        assert min(rows, columns) >= 8 * substage.halo
        assert substage.token_stride > 1 or substage.branch is None or columns % substage.token_stride == 0


def test_rows_of_a_very_wide_image_have_their_share_of_memory():
    stem = substages_of(create("convneur_m1"))[0]
    line = 10**6 * 3  # bytes of a row of a million pixels
    rows, columns = tile_size(stem, (5000, 250_000), 3, 4, 2 * 10**9, line)
    assert (rows + 2 * stem.halo) * 4 * line <= 5 * 10**8
    assert (rows, columns) != tile_size(stem, (5000, 250_000), 3, 4, 2 * 10**9)
    with pytest.raises(ValueError, match="needs at least 768 MB"):  # 16 rows of the map, of 4 of the image each
        tile_size(stem, (5000, 250_000), 3, 4, 7 * 10**8, line)
    tile_size(stem, (5000, 250_000), 3, 4, 8 * 10**8, line)


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="5 channels and the model takes 3"):
        stream(small(), picture(64, 64, 5), tmp_path, progress=False)
    with pytest.raises(ValueError, match="total stride, 32 px"):
        stream(small(), picture(64, 31), tmp_path, progress=False)
    with pytest.raises(
        ValueError, match=r"this process has \d\.\d\d GB already, and the memory limit is 0\.001 GB; raise it"
    ):
        stream(small(), picture(64, 64), tmp_path, memory_limit=1e6, progress=False)
    with pytest.raises(ValueError, match="out_indices"):
        stream(small(), picture(64, 64), tmp_path, out_indices=(4,), progress=False)
    with pytest.raises(ValueError, match=r"float16 cannot be streamed; give model.float"):
        stream(small().half(), picture(64, 64), tmp_path, progress=False)
    with pytest.raises(FileNotFoundError):
        stream(small(), tmp_path / "none.tif", tmp_path, progress=False)


JOURNAL = ".convneur-scratch-*/journal.txt"
JOB = """
import sys, torch
from pathlib import Path
from tests.streaming.test_stream import run, small
torch.set_num_threads(1)
run(small(), Path(sys.argv[1]), Path(sys.argv[2]))
"""


def run(model, image, out):
    return stream(model, image, out, out_indices=(0, 3), tile=(4, 60), progress=False)


@pytest.mark.slow
def test_a_killed_job_goes_on_and_gives_the_same_bytes(tmp_path):
    image = tmp_path / "image.npy"
    np.save(image, picture(1500, 640))
    run(small(), image, tmp_path / "unbroken")
    job = subprocess.Popen([sys.executable, "-c", JOB, image, tmp_path / "killed"], start_new_session=True)
    steps = 0
    while job.poll() is None and steps < 120:
        steps = sum(path.read_text().count("\n") for path in (tmp_path / "killed").glob(JOURNAL))
        time.sleep(0.005)
    os.killpg(job.pid, signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL, "the job was over before it was killed"
    (journal,) = (tmp_path / "killed").glob(JOURNAL)
    assert "0 blocks 0" in journal.read_text().splitlines()
    run(small(), image, tmp_path / "killed")
    for name in ("stage_0.npy", "stage_3.npy", "features.npy", "logits.npy"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()
    assert not journal.parent.exists()


class Failing:
    """An image whose rows cannot be read from the n-th time on."""

    def __init__(self, pixels, times):
        self.pixels, self.left, self.shape, self.dtype = pixels, times, pixels.shape, pixels.dtype

    def __getitem__(self, index):
        self.left -= 1
        if self.left < 0:
            raise OSError("the disk is gone")
        return self.pixels[index]


def test_steps_that_are_done_are_not_done_again(tmp_path):
    pixels, model = picture(300, 200), small()
    with pytest.raises(UnreadableImageError, match=r"rows .*: the disk is gone"):
        stream(model, Failing(pixels, 12), tmp_path, tile=(8, 1000), progress=False)
    # Two reads told what image it is. 75 rows of the first stage are 10 strips of tokens, and 10 of blocks, of which
    # the first and the second failed, so that 10 and not 20 are left.
    found = stream(model, Failing(pixels, 12), tmp_path, tile=(8, 1000), progress=False)
    torch.testing.assert_close(found.logits, whole(model, pixels)[0], rtol=0, atol=1e-9)


def test_another_array_of_the_same_shape_is_not_gone_on_with(tmp_path):
    pixels, other, model = picture(300, 200), picture(300, 200, seed=1), small()
    with pytest.raises(UnreadableImageError):
        stream(model, Failing(pixels, 12), tmp_path, tile=(8, 1000), progress=False)
    with pytest.raises(FileExistsError, match="made with another image"):
        stream(model, Failing(other, 100), tmp_path, tile=(8, 1000), progress=False)
    found = stream(model, Failing(other, 100), tmp_path, tile=(8, 1000), progress=False, overwrite=True)
    torch.testing.assert_close(found.logits, whole(model, other)[0], rtol=0, atol=1e-9)


class Meanwhile:
    """An image that calls something when its rows are read."""

    def __init__(self, pixels, call):
        self.pixels, self.call, self.shape, self.dtype = pixels, call, pixels.shape, pixels.dtype

    def __getitem__(self, index):
        self.call()
        return self.pixels[index]


def test_two_at_a_time_are_kept_apart(tmp_path):
    pixels, other, model, calls = picture(96, 64), picture(96, 64, seed=1), small(), []

    def second():
        if (tmp_path / "out").exists():  # what image it is, is found out before
            thread = threading.Thread(target=meanwhile)
            thread.start()
            thread.join()

    def meanwhile():
        with pytest.raises(BlockingIOError, match="being written by another process"):
            stream(model, other, tmp_path / "out", progress=False)
        apart = stream(model, other, tmp_path / "other", scratch=tmp_path / "scratch", progress=False)
        assert_same(apart, whole(model, other))
        calls.append(apart)

    found = stream(model, Meanwhile(pixels, second), tmp_path / "out", progress=False)
    assert calls
    assert_same(found, whole(model, pixels))
    assert not list((tmp_path / "scratch").iterdir())


def test_a_full_disk_is_told_of_before_pages_are_written(tmp_path, monkeypatch):
    def full(_file, _start, _length):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        stream(small(), picture(64, 64), tmp_path, progress=False)


def test_results_of_another_job_are_kept_until_told_otherwise_and_strange_files_for_ever(tmp_path):
    model, pixels, other = small(), picture(96, 64), picture(96, 64, seed=1)
    out = tmp_path / "out"
    assert_same(stream(model, pixels, out, scratch=tmp_path / "elsewhere", progress=False), whole(model, pixels))
    assert not list((tmp_path / "elsewhere").iterdir())
    (out / "notes.txt").write_text("mine")
    before = (out / "features.npy").stat().st_mtime_ns
    with pytest.raises(FileExistsError, match=r"made with another image .*; add --overwrite"):
        stream(model, other, out, progress=False)
    again = stream(model, pixels, out, progress=False)
    assert_same(again, whole(model, pixels))
    assert (again.computed, (out / "features.npy").stat().st_mtime_ns) == (False, before)
    assert_same(stream(model, other, out, progress=False, overwrite=True), whole(model, other))
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("size", [(203, 118), (96, 160)])
def test_segmentation_says_what_it_says_of_the_whole(size, tmp_path):
    torch.manual_seed(0)
    model = create_segmenter(num_classes=7, backbone_args=SEGMENTER, pyramid_channels=32, channels=32).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    pixels = picture(*size)
    with torch.inference_mode():
        logits = model(normalised(torch.from_numpy(pixels).permute(2, 0, 1))[None].double())[0]
    found = stream(model, pixels, tmp_path, tile=(5, 9), progress=False)
    said, best = torch.from_numpy(np.load(found.classes)), logits.topk(2, 0)
    sure = best.values[0] - best.values[1] > 1e-4  # of the others rounding decides
    assert said.shape == size
    assert sure.double().mean() > 0.99
    assert len(said.unique()) > 2
    assert torch.equal(said[sure].long(), best.indices[0][sure])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".convneur-stream", "classes.npy", "stream.json"]


def test_other_decoders_and_backbones_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="UPerNet cannot be streamed"):
        stream(create_segmenter("upernet", num_classes=3), picture(64, 64), tmp_path, progress=False)
    with pytest.raises(ValueError, match="cannot be streamed; take a ConvNeur"):
        stream(create_segmenter(backbone="resnet18", num_classes=3), picture(64, 64), tmp_path, progress=False)


def test_four_bands(tmp_path):
    model, pixels = small(in_chans=4), picture(90, 80, 4)
    found = stream(model, pixels, tmp_path, mean=(0.5,) * 4, std=(0.25,) * 4, progress=False)
    assert_same(found, whole(model, pixels))
