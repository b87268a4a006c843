"""Mosaics of photographs: what is asked follows from the picture alone, and only from far away."""

from __future__ import annotations

import pytest
import torch

from convneur.data.digits import ScanImages, load_digits
from convneur.lab.digit_mosaics import IGNORE
from convneur.lab.photo_mosaics import COLOURS, PhotoMosaics, Tiles, tiles_of
from convneur_options.mosaic import LEGEND, MosaicConfig

CLASSES, TILE = 6, 8


def plain_tiles(copies: int = 3) -> Tiles:
    """Tiles that show the number of their class, in grey, each copy a little brighter."""
    labels = torch.arange(CLASSES).repeat_interleave(copies)
    grey = 20 * (labels + 1) + torch.arange(copies).repeat(CLASSES)
    return Tiles(grey.byte().view(-1, 1, 1, 1).expand(-1, 3, TILE, TILE).contiguous(), labels)


def drawn(task: str, count: int = 256, **changes) -> tuple[torch.Tensor, torch.Tensor, MosaicConfig]:
    """Class that each tile shows (B, side, side), answers, and the settings."""
    config = MosaicConfig(**{"task": task, "tile": TILE, "alike": "class"} | changes)
    images, targets = PhotoMosaics(plain_tiles(), config, count, 1).draw()
    inside = images[:, 0, TILE // 2 :: TILE, TILE // 2 :: TILE] * 255
    return (inside / 20).long() - 1, targets, config


def test_like_marks_the_class_of_the_query_among_two():
    classes, targets, _ = drawn("like", distance=3)
    asked = targets != IGNORE
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    assert torch.equal(asked[0], torch.maximum(rows, columns) >= 3)
    assert (asked == asked[0]).all()
    assert torch.equal(targets[asked], (classes == classes[:, :1, :1])[asked].long())
    assert all(len(picture.unique()) == 2 for picture in classes)
    assert abs(targets[asked].float().mean() - 0.5) < 0.02
    # Nothing but the query tells: over all pictures, each class is asked for as often as not.
    for number in range(CLASSES):
        assert abs(targets[asked & (classes == number)].float().mean() - 0.5) < 0.1


def test_legend_says_what_each_class_is_called_in_this_picture():
    classes, targets, _ = drawn("legend", distance=4)
    entries = classes[:, :2, :2].flatten(1)
    assert all(len(set(entry.tolist())) == LEGEND for entry in entries)
    asked = targets != IGNORE
    assert not asked[:, :4, :4].any()
    assert asked[:, 4:].all()
    assert torch.equal(entries.gather(1, targets.clamp(min=0).flatten(1))[asked.flatten(1)], classes[asked])
    shares = targets[asked].bincount() / asked.sum()
    assert (shares - 1 / LEGEND).abs().max() < 0.02


def test_pair_is_as_far_apart_as_asked():
    classes, targets, _ = drawn("pair", distance=5)
    assert (targets != IGNORE).flatten(1).sum(1).tolist() == [2] * 256
    answers = []
    for shown, target in zip(classes, targets, strict=True):
        one, other = (target != IGNORE).nonzero()
        assert (one - other).abs().max() == 5
        same = int(shown[tuple(one)] == shown[tuple(other)])
        assert target[tuple(one)] == target[tuple(other)] == same
        answers.append(same)
    assert 0.4 < sum(answers) / len(answers) < 0.6


@pytest.mark.parametrize("task", ["like", "legend", "pair"])
def test_frames_stand_where_they_belong(task):
    config = MosaicConfig(task, 64, TILE)
    images, targets = PhotoMosaics(plain_tiles(), config, 4, 1).draw()
    corners = (images[:, :, ::TILE, ::TILE] * 255).round().byte()  # a pixel of each frame
    has_frame = (corners.amax(1) == 255).nonzero().tolist()
    if task == "like":
        assert has_frame == [[b, 0, 0] for b in range(4)]
    elif task == "legend":
        assert has_frame == [[b, r, c] for b in range(4) for r in range(2) for c in range(2)]
        assert torch.equal(corners[0, :, :2, :2].flatten(1).T, COLOURS)
    else:
        assert has_frame == (targets != IGNORE).nonzero().tolist()


def test_a_class_may_stand_for_one_photograph_in_each_picture():
    config = MosaicConfig("like", 64, TILE, alike="photo")
    tiles = plain_tiles(copies=15)
    images, targets = PhotoMosaics(tiles, config, 64, 1).draw()
    grey = images[:, 0, TILE // 2 :: TILE, TILE // 2 :: TILE] * 255
    for picture, target in zip(grey, targets, strict=True):
        for answer in (0, 1):
            shown = picture[target == answer]
            assert shown.max() / shown.min() < 1.3 / 0.7 + 0.1, "one photograph, brighter or darker"
            assert len(shown.unique()) > 1
    assert len(PhotoMosaics(tiles, config, 64, 1, seed=1).draw().images[:, 0, 40, 40].unique()) > 30


def test_the_same_seed_draws_the_same_and_a_pass_goes_on():
    config = MosaicConfig("legend", 64, TILE)
    one, same = (PhotoMosaics(plain_tiles(), config, 2, 3, seed=7) for _ in range(2))
    first, again = list(one), list(same)
    assert len(one) == len(first) == 3
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, again, strict=True))
    assert not torch.equal(next(iter(one)).images, first[0].images)


def test_pictures_are_normalised():
    config, tiles = MosaicConfig("pair", 64, TILE), plain_tiles()
    plain = PhotoMosaics(tiles, config, 2, 1, seed=1).draw().images
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    other = PhotoMosaics(tiles, config, 2, 1, seed=1, mean=mean, std=std).draw().images
    scale, shift = (torch.tensor(v).view(3, 1, 1) for v in (std, mean))
    torch.testing.assert_close(other * scale + shift, plain)


def test_tiles_are_cut_in_order_and_what_cannot_be_read_is_left_out(monkeypatch):
    train, _ = load_digits()
    images = ScanImages(train.images[:200], train.labels[:200])
    tiles = tiles_of(images, 16, classes=4)
    assert tiles.images.shape[1:] == (3, 16, 16)
    assert tiles.images.dtype == torch.uint8
    assert torch.equal(tiles.labels, tiles.labels.sort().values)
    assert torch.equal(tiles.labels.bincount(), train.labels[:200].bincount()[:4])
    broken = int((train.labels[:200] == 0).nonzero()[0])
    read = images.read
    monkeypatch.setattr(images, "read", lambda index: b"no image" if index == broken else read(index))
    assert len(tiles_of(images, 16, classes=4).labels) == len(tiles.labels) - 1


def test_what_does_not_fit_is_refused():
    for settings, message in [
        ({"canvas": 32}, "64 to 1024"),
        ({"canvas": 100}, "does not divide"),
        ({"distance": 4}, "does not fit 4 x 4 tiles"),
        ({"task": "legend", "tile": 32}, "does not fit 2 x 2 tiles"),
    ]:
        with pytest.raises(ValueError, match=message):
            MosaicConfig(**settings)
    few = Tiles(*(part[:6] for part in plain_tiles()))  # of two classes
    with pytest.raises(ValueError, match="needs 4 classes, and there are 2"):
        PhotoMosaics(few, MosaicConfig("legend", 64, TILE), 2, 1)
    with pytest.raises(ValueError, match="cut them to 16 px"):
        PhotoMosaics(few, MosaicConfig("like", 64, 16), 2, 1)
    train, _ = load_digits()
    images = ScanImages(train.images[train.labels != 1], train.labels[train.labels != 1])
    with pytest.raises(ValueError, match="class 1 has no photograph"):
        tiles_of(images, 16)
    with pytest.raises(ValueError, match="at least two classes"):
        tiles_of(images, 16, classes=1)
