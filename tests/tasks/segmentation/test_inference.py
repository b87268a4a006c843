"""Images asked whole, tile by tile, at several scales, mirrored."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convneur.data.semantic.loading import normalised
from convneur.tasks.segmentation import create_segmenter
from convneur.tasks.segmentation.inference import check_inference, segment, tiles
from convneur_options.segmentation import Inference

CPU = torch.device("cpu")
TINY = {"dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "memory_width": 16}


def local_model(reach):
    """Sees ``reach`` pixels to each side."""
    torch.manual_seed(0)
    side = 2 * reach + 1
    return nn.Sequential(nn.Conv2d(3, 8, side, padding=reach), nn.GELU(), nn.Conv2d(8, 4, 1)).eval()


def picture(height=90, width=130):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (65, 64), (90, 130), (200, 63)])
@pytest.mark.parametrize("margin", [0, 5, 20])
def test_tiles_answer_every_pixel_once(size, margin):
    counts = torch.zeros(size, dtype=torch.long)
    for tile in tiles(*size, 64, margin):
        looked = torch.zeros(size, dtype=torch.bool)
        looked[tile.rows, tile.columns] = True
        assert looked.sum() == min(64, size[0]) * min(64, size[1])
        counts[tile.answered_rows, tile.answered_columns] += 1
        answered = tile.cut(torch.arange(size[0] * size[1]).view(size)[tile.rows, tile.columns])
        expected = torch.arange(size[0] * size[1]).view(size)[tile.answered_rows, tile.answered_columns]
        assert torch.equal(answered, expected)
        for looked_at, said, length in (
            (tile.rows, tile.answered_rows, size[0]),
            (tile.columns, tile.answered_columns, size[1]),
        ):
            assert said.start - looked_at.start >= margin or said.start == 0
            assert looked_at.stop - said.stop >= margin or said.stop == length
    assert (counts == 1).all()


def test_tiles_say_what_the_whole_says_where_the_model_sees_no_further_than_the_margin():
    model, pixels = local_model(6), picture()
    whole = segment(model, pixels, Inference(), CPU)
    assert torch.equal(segment(model, pixels, Inference(window=48, margin=6), CPU), whole)
    assert not torch.equal(segment(model, pixels, Inference(window=48, margin=0), CPU), whole)


def test_images_of_any_size_are_padded_inside():
    model = create_segmenter("semantic_fpn", num_classes=4, backbone_args=TINY, pyramid_channels=32, channels=32).eval()
    images = torch.randn(2, 3, 70, 101)
    with torch.inference_mode():
        logits = model(images)
        padded = model.net(F.pad(images, (0, 27, 0, 26)))[..., :70, :101]
    assert logits.shape == (2, 4, 70, 101)
    assert torch.equal(logits, padded)


def test_scales_and_mirrors_are_averaged():
    model, pixels = local_model(2), picture(40, 50)
    image = normalised(pixels)[None]
    with torch.inference_mode():
        said = []
        for size in ((40, 50), (60, 75)):
            fitted = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
            for mirrored in (False, True):
                scores = model(fitted.flip(3) if mirrored else fitted)
                scores = scores.flip(3) if mirrored else scores
                said.append(F.interpolate(scores, (40, 50), mode="bilinear", align_corners=False).softmax(1))
    expected = torch.stack(said).mean(0).argmax(1)[0].byte()
    got = segment(model, pixels, Inference(scales=(1.0, 1.5), flip=True), CPU)
    assert (got != expected).float().mean() < 0.002  # sums are taken in another order


@pytest.mark.parametrize("window", [0, 40])
def test_what_is_resized_comes_back_in_its_own_size(window):
    pixels = torch.zeros(3, 90, 130, dtype=torch.uint8)
    pixels[0, :, 60:] = 255  # half of it is red
    red = nn.Conv2d(3, 2, 1)
    with torch.no_grad():
        red.weight.copy_(torch.tensor([[0.0, 0, 0], [1, 0, 0]])[..., None, None])
        red.bias.zero_()
    labels = segment(red.eval(), pixels, Inference(size=45, window=window, margin=4), CPU)
    assert labels.shape == (90, 130)
    assert labels.dtype == torch.uint8
    assert not labels[:, :58].any()
    assert labels[:, 62:].all()


def test_tiny_images_are_enlarged():
    model = create_segmenter("upernet", num_classes=3, backbone_args=TINY, decoder_channels=16).eval()
    assert segment(model, picture(5, 3), Inference(), CPU).shape == (5, 3)


def test_tiles_without_a_middle_are_refused():
    with pytest.raises(ValueError, match="make it larger"):
        check_inference(Inference(window=64, margin=32))
