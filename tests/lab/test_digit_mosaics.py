import torch

from convneur.data.digits import load_digits
from convneur.data.photos import sample_photo
from convneur.lab.digit_batches import DigitBatches, jitter
from convneur.lab.digit_mosaics import IGNORE, PRIOR, Mosaics


def test_split_is_stratified_and_disjoint():
    train, held_out = load_digits()
    assert (len(train.labels), len(held_out.labels)) == (1437, 360)
    assert (held_out.labels.bincount() - 36).abs().max() <= 1
    assert 0 <= train.images.min() < train.images.max() <= 1
    whole = torch.cat([train.images, held_out.images])
    assert whole.sum() == torch.cat([part.images for part in load_digits(seed=1)]).sum()


def test_digits_are_enlarged():
    assert load_digits(32)[0].images.shape == (1437, 1, 32, 32)


def test_jitter_shifts_by_no_more_than_asked():
    images = torch.zeros(50, 1, 32, 32)
    images[:, :, 16, 16] = 1
    moved = jitter(images, torch.Generator().manual_seed(0), pixels=3, degrees=0)
    rows = torch.arange(32.0)
    weights = moved[:, 0].sum(2)
    centre = (weights * rows).sum(1) / weights.sum(1)
    assert (centre - 16).abs().max() <= 3.01
    assert (centre - 16).abs().max() > 1


def test_epochs_differ_and_seeds_repeat():
    train, _ = load_digits()
    first, second = (DigitBatches(train, 64, pixels=1, seed=3) for _ in range(2))
    a, b, c = list(first), list(first), list(second)
    assert len(a) == len(first) == 22
    assert all(torch.equal(x[0], y[0]) for x, y in zip(a, c, strict=True))
    assert not torch.equal(a[0][1], b[0][1])


def test_mosaic_targets_follow_the_framed_tile():
    train, _ = load_digits(16)
    images, targets = next(iter(Mosaics(train, batch_size=64)))
    assert images.shape == (64, 1, 128, 128)
    assert targets.shape == (64, 8, 8)
    assert (targets[:, 0, 0] == IGNORE).all()
    assert (targets.flatten(1)[:, 1:] >= 0).all()
    assert abs((targets == 1).float().mean().item() - PRIOR * 63 / 64) < 0.02
    frame = torch.cat([images[:, 0, 0, :16], images[:, 0, :16, 15]], 1)
    assert (frame == 1).all()
    # Each tile is a digit of the set, and it is marked if and only if it has the label of the framed one.
    tiles = images.unfold(2, 16, 16).unfold(3, 16, 16)[:8, 0].reshape(8, 64, 256)
    known = train.images.flatten(1)
    labels = train.labels[torch.cdist(tiles.flatten(0, 1), known).argmin(1)].view(8, 64)
    inside = images[:8, 0, 1:15, 1:15].flatten(1)
    asked = train.labels[torch.cdist(inside, train.images[:, 0, 1:15, 1:15].flatten(1)).argmin(1)]
    assert torch.equal((labels[:, 1:] == asked[:, None]).long(), targets[:8].flatten(1)[:, 1:])


def test_mosaics_repeat_for_a_seed_and_go_on_in_the_next_pass():
    train, _ = load_digits(16)
    a, b = (Mosaics(train, 2, canvas=64, batches=2, seed=5) for _ in range(2))
    first, again, later = list(a), list(b), list(a)
    assert all(torch.equal(x.images, y.images) for x, y in zip(first, again, strict=True))
    assert not torch.equal(first[0].images, later[0].images)


def test_sample_photo():
    photo = sample_photo(size=128)
    assert photo.shape == (3, 128, 128)
    assert 0 <= photo.min() < photo.max() <= 1
