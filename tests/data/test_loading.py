"""What a batch holds follows from seed, epoch and place; nothing else changes it."""

import io
import multiprocessing
import random
import socket
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from convneur.data.bad_samples import BadSamples
from convneur.data.formats.images import Subset
from convneur.data.loading import PADDING, UNKNOWN, EpochBatches, ImageCache, TrainImages, seeded
from convneur.data.module import ImageData, eval_loader
from convneur.data.shards import Sample
from convneur.data.sources import Source, open_source
from convneur.data.transforms import Preprocessing, eval_transform, train_transform
from convneur_options.augment import AugmentConfig
from tests.data import files
from tests.data.test_sources import make_shards

TO = Preprocessing((3, 24, 24), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
AUGMENT = AugmentConfig()


def batches(data: ImageData, epoch: int = 0, start: int = 0) -> list:
    loader = data.train_dataloader()
    loader.load_state_dict({"epoch": epoch, "start": start})
    return list(loader)


def same(left, right) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in zip(left, right, strict=True)
    )


def source_of(kind, tmp_path) -> Source:
    return (
        open_source("digits")
        if kind == "digits"
        else open_source(f"wds:{make_shards(tmp_path, {'train': 80, 'val': 12})}")
    )


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_neither_workers_nor_a_later_start_change_what_comes(workers):
    source = open_source("digits")
    reference = batches(ImageData(source, TO, AUGMENT, 256, seed=5, workers=0))
    assert len(reference) == 5
    data = ImageData(source, TO, AUGMENT, 256, seed=5, workers=workers)
    torch.manual_seed(workers)
    assert same(batches(data), reference)
    assert same(batches(data, start=3), reference[3:])
    assert not same(batches(data, epoch=1), reference)
    assert not same(batches(ImageData(source, TO, AUGMENT, 256, seed=6, workers=0)), reference)


@pytest.mark.parametrize("kept", [100_000, 1_000_000])
def test_decoded_images_are_kept_up_to_a_budget_and_change_nothing(tmp_path, kept):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(20):
            noise = np.random.default_rng([ord(name), i]).integers(0, 255, (40, 40, 3), dtype=np.uint8)
            (tmp_path / name / f"{i}.png").write_bytes(files.encoded(Image.fromarray(noise), "PNG"))
    images = open_source(str(tmp_path)).train
    transform = train_transform(TO, AUGMENT)
    plain, caching = (TrainImages(ImageCache(images, keep_bytes=n), transform, seed=3) for n in (0, kept))
    for epoch in range(3):
        for index in range(len(images)):
            assert torch.equal(plain[epoch, index].image, caching[epoch, index].image)
    assert len(caching.pictures.kept) == min(len(images), kept // (3 * 40 * 40))
    assert plain.pictures.kept is None


class Counted:
    """Images that count, over all processes, how often they are read."""

    def __init__(self, images) -> None:
        self.images, self.labels, self.reads = images, images.labels, multiprocessing.Value("q", 0)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> bytes:
        with self.reads.get_lock():
            self.reads.value += 1
        return self.images.read(index)

    def name(self, index: int) -> str:
        return self.images.name(index)


@pytest.fixture(params=["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def start(request):
    """How processes begin, by default."""
    before = multiprocessing.get_start_method()
    if request.param not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {request.param}")
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


def test_workers_share_what_is_kept(start):
    """With memory for half of the images, half of the reads of later epochs are saved, however many workers there are;
    with a cache for each of four workers it would be an eighth."""
    digits = open_source("digits")
    saved, seen = {}, {}
    for workers in (1, 4):
        train = Counted(Subset(digits.train, range(256)))
        source = Source(train, digits.val, digits.classes)
        room = (len(train) + len(digits.val)) // 2 * 3 * 8 * 8
        data = ImageData(source, TO, AUGMENT, 16, seed=5, workers=workers, keep_bytes=room)
        loader = data.train_dataloader()
        seen[workers] = []
        for epoch in range(3):
            loader.set_epoch(epoch)
            before = train.reads.value
            batches_of_epoch = list(loader)
            seen[workers] += batches_of_epoch
        saved[workers] = 1 - (train.reads.value - before) / (16 * len(batches_of_epoch))
        assert len(loader.dataset.pictures.kept) == len(train) // 2
    assert same(seen[1], seen[4])
    assert saved[1] == pytest.approx(0.5, abs=0.05)
    assert saved[4] == pytest.approx(saved[1], abs=0.03)


@pytest.mark.parametrize("workers", [0, *(pytest.param(each, marks=pytest.mark.slow) for each in (2, 3))])
def test_shards_go_on_at_the_sample(tmp_path, workers):
    data = ImageData(source_of("wds", tmp_path), TO, AUGMENT, 8, seed=5, workers=workers)
    whole = batches(data)
    assert len(whole) == 10
    assert same(batches(data), whole)
    assert not same(batches(data, epoch=1), whole)
    for start in range(1, 10):
        assert same(batches(data, start=start), whole[start:]), start


def test_an_epoch_of_shards_holds_nearly_every_sample_once(tmp_path):
    """A reader that runs out of its shards begins again, so a few may come twice; with one reader none does."""
    source = source_of("wds", tmp_path)
    one = batches(ImageData(source, TO, AUGMENT, 8, workers=0))
    assert sorted(int(i) for batch in one for i in batch.indices) == list(range(80))
    two = batches(ImageData(source, TO, AUGMENT, 8, workers=2))
    assert sum(len(batch.labels) for batch in two) == 80
    red = [bool(image[0].mean() > image[2].mean()) for batch in two for image in batch.images]
    labels = [bool(label) for batch in two for label in batch.labels]
    assert np.mean(np.equal(red, labels)) > 0.8  # colour jitter hides some


def test_too_few_shards_for_the_workers(tmp_path):
    source = source_of("wds", tmp_path)
    with pytest.raises(ValueError, match="8 shards cannot feed 9 readers; give fewer --workers"):
        batches(ImageData(source, TO, AUGMENT, 2, workers=9))
    assert ImageData(source, TO, AUGMENT, 2).train_workers(world=8) == 1
    assert ImageData(source, TO, AUGMENT, 2).train_workers(world=5) == 1


def test_an_unreadable_sample_of_a_shard_changes_nothing_else(tmp_path):
    """The place of every other sample stays, so that a run goes on at the right one; the bad one is reported."""
    source = source_of("wds", tmp_path)
    data = ImageData(source, TO, AUGMENT, 8, seed=5, workers=0)
    whole = batches(data)
    with tarfile.open(tmp_path / "train-003.tar") as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(tmp_path / "train-003.tar", "w") as tar:
        for member, content in members:
            content = b"no image" if member.name.endswith("30.png") else content
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    damaged = batches(data)
    told = [note for batch in damaged for note in batch.unreadable]
    assert len(told) == 1
    assert "train00030" in told[0][0]
    differing = [
        (i, j)
        for i, (a, b) in enumerate(zip(whole, damaged, strict=True))
        for j in range(8)
        if not torch.equal(a.images[j], b.images[j])
    ]
    assert len(differing) == 1
    for start in (3, 7):
        assert same(batches(data, start=start), damaged[start:])


def test_readers_do_not_draw_alike(tmp_path):
    """Sample n of one worker is augmented otherwise than sample n of another."""
    loader = ImageData(source_of("wds", tmp_path), TO, AUGMENT, 8, workers=0).train_dataloader()
    samples = [(0, Sample("0.tar", "a", files.encoded(files.plain(), "PNG"), b"0"))]
    one, again, other = (loader.order._batch(samples, reader).images for reader in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_processes_share_the_global_batches():
    one = EpochBatches(100, 12, seed=1)
    two = [EpochBatches(100, 6, seed=1, rank=rank, world=2) for rank in range(2)]
    for epoch in range(2):
        for sampler in (one, *two):
            sampler.epoch = epoch
        joined = [a + b for a, b in zip(*two, strict=True)]
        assert joined == list(one)
    seen = [index for batch in one for _, index in batch]
    assert len(set(seen)) == len(seen) == 96
    with pytest.raises(ValueError, match="a batch of 100 in each of 2 processes is larger than the set of 100 images"):
        EpochBatches(100, 100, seed=1, world=2)


@pytest.mark.parametrize("kind", ["digits", "wds"])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_held_out_image_is_judged_once(kind, world, tmp_path):
    val = source_of(kind, tmp_path).val
    parts = [
        index
        for rank in range(world)
        for batch in eval_loader(val, TO, 7, 0, rank, world)
        for index in batch.indices.tolist()
    ]
    assert sorted(parts) == [PADDING] * (-len(val) % world) + list(range(len(val)))


def test_the_loader_says_where_to_go_on():
    loader = ImageData(open_source("digits"), TO, AUGMENT, 256, workers=0).train_dataloader()
    loader.done = 3
    assert loader.state_dict() == {"epoch": 0, "start": 3}
    loader.done = 5
    assert loader.state_dict() == {"epoch": 1, "start": 0}
    loader.set_epoch(1)
    assert loader.state_dict() == {"epoch": 1, "start": 0}


def test_seeded_leaves_other_random_numbers_alone():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    with seeded(1, 2, 3):
        inside = draw()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = draw(), draw()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    first = draw()
    with seeded(1, 2, 3):
        assert draw() == inside
    assert (first, draw()) == expected


def test_unreadable_files_are_replaced_in_training_and_left_out_of_evaluation(tmp_path):
    source = open_source(str(files.odd_folder(tmp_path)), val_share=0.5)
    data = ImageData(source, TO, AUGMENT, 4, workers=0)
    found = BadSamples(len(source.train) + len(source.val), limit=0.5)
    for epoch in range(2):
        for batch in batches(data, epoch):
            assert len(batch.labels) == 4
            assert torch.isfinite(batch.images).all()
            found.add(batch.unreadable)
    judged = list(data.val_dataloader())
    for batch in judged:
        assert (batch.labels == UNKNOWN).sum() == len(batch.unreadable)
        found.add(batch.unreadable)
    names = {name.rsplit("/", 1)[-1]: reason for name, reason in found.found.items()}
    assert set(names) == set(files.UNREADABLE)
    assert "truncated" in names["truncated.jpg"]
    assert "megapixels" in names["bomb.png"]
    with pytest.raises(ValueError, match=r"of 32 images cannot be read, more than the limit of 1.0%.*--max-unreadable"):
        BadSamples(32).add([("a.jpg", "empty")])


def test_nothing_readable_is_an_error(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(2):
            (tmp_path / name / f"{i}.png").write_bytes(b"text")
    data = ImageData(open_source(str(tmp_path), val_share=0.5), TO, AUGMENT, 2, workers=0)
    with pytest.raises(ValueError, match="none of 2 images can be read; the first"):
        batches(data)


def test_transforms_follow_the_preprocessing():
    picture = files.plain((255, 128, 0), (60, 40))
    image = eval_transform(TO)(picture)
    assert image.shape == (3, 24, 24)
    torch.testing.assert_close(image.mean((1, 2)), torch.tensor([2.0, 0.0078, -2.0]), atol=1e-2, rtol=0)
    grey = Preprocessing((1, 16, 16), (0.0,), (1.0,))
    assert eval_transform(grey)(picture).shape == (1, 16, 16)
    assert train_transform(grey, AUGMENT)(picture).shape == (1, 16, 16)
    for crop in ("rrc", "rkrr"):
        assert train_transform(TO, AugmentConfig(crop=crop, scale=(0.8, 1.2)))(picture).shape == (3, 24, 24)


def test_the_strongest_posterization_is_no_error():
    """Magnitude 10 of timm's increasing set asks for 0 bits."""
    picture = files.plain(size=(32, 32))
    transform = train_transform(TO, AugmentConfig(auto_augment="rand-m10-n12-mstd0-inc1"))
    for draw in range(60):
        with seeded(draw):
            assert torch.isfinite(transform(picture)).all()


LEFT = """
import os, socket, sys, threading, time
from multiprocessing import resource_sharer
if sys.argv[1] == "as a loader's worker":
    from convneur.data.loading import ignore_interrupts
    ignore_interrupts(0)
address, _ = resource_sharer.DupFd(os.dup(1))._id
for _ in range(2):
    with socket.socket(socket.AF_UNIX) as left:
        left.connect(address)
time.sleep(0.3)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="processes hand memory over by other means here")
@pytest.mark.parametrize("how", ["as it is", "as a loader's worker"])
def test_workers_whose_process_ends_while_it_fetches_say_nothing(how):
    run = subprocess.run([sys.executable, "-c", LEFT, how], capture_output=True, text=True, check=True, timeout=60)
    assert ("Error" in run.stderr) == (how == "as it is"), run.stderr
