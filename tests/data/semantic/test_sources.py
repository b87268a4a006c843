"""Masks in every form people keep them, and what is wrong with them."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from convneur.data.semantic import IGNORED, MaskCode, MaskError, open_pixels
from convneur.data.semantic.masks import some_colours
from convneur.data.semantic.sources import CITYSCAPES
from tests.data.semantic.builders import CLASSES, COLOURS, scene, write_scenes

CODE = MaskCode(CLASSES, COLOURS)


def png(values: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "png", **options)
    return buffer.getvalue()


def read(source, index=0, part="train", strict=False):
    images = getattr(source, part)
    with Image.open(images.name(index)) as image:
        size = (image.height, image.width)
    return source.code.decode(images.masks.read(index), size, strict)


def test_folders_with_images_and_masks(tmp_path):
    source = open_pixels(write_scenes(tmp_path))
    assert (len(source.train), len(source.val), list(source.code.classes)) == (6, 3, list(CLASSES))
    labels, unknown = read(source, 2)
    assert np.array_equal(labels, scene(2)[1])
    assert unknown == 0


def test_the_other_way_round_and_without_a_split(tmp_path):
    root = write_scenes(tmp_path / "a")
    for split in ("train", "val"):
        for part in ("images", "masks"):
            (tmp_path / "b" / part).mkdir(parents=True, exist_ok=True)
            shutil.copytree(root / split / part, tmp_path / "b" / part / split)
            target = tmp_path / "c" / part
            target.mkdir(parents=True, exist_ok=True)
            for file in (root / split / part).iterdir():
                shutil.copy(file, target / f"{split}{file.name}")
    for name in ("b", "c"):
        shutil.copy(root / "classes.txt", tmp_path / name)
    b = open_pixels(tmp_path / "b")
    assert (len(b.train), len(b.val)) == (6, 3)
    c, again, other = (open_pixels(tmp_path / "c", 0.33, seed) for seed in (0, 0, 1))
    names = [[source.val.name(n) for n in range(len(source.val))] for source in (c, again, other)]
    assert (len(c.train), len(c.val)) == (6, 3)
    assert names[0] == names[1] != names[2]


def test_masks_of_colours(tmp_path):
    root = write_scenes(tmp_path)
    rows = "".join(f"{name},{r},{g},{b}\n" for name, (r, g, b) in zip(CLASSES, COLOURS, strict=True))
    (root / "classes.csv").write_text("name,r,g,b\n" + rows)
    labels = scene(0)[1]
    colours = np.zeros((*labels.shape, 3), np.uint8)
    for number, colour in enumerate(COLOURS):
        colours[labels == number] = colour
    Image.fromarray(colours).save(root / "train" / "masks" / "0.png")
    source = open_pixels(root)
    decoded, unknown = read(source)
    assert np.array_equal(decoded, labels)
    assert unknown == 36  # the corner is black, which is no class
    with pytest.raises(MaskError, match="colour 0, 0, 0 is no class"):
        read(source, strict=True)


def test_palettes_are_numbers():
    labels = scene(0)[1]
    buffer = io.BytesIO()
    CODE.picture(labels).save(buffer, "png")
    decoded, unknown = CODE.decode(buffer.getvalue(), labels.shape)
    assert np.array_equal(decoded, labels)
    assert unknown == 0
    shown = np.array(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"))
    assert np.array_equal(shown[labels == 1][0], COLOURS[1])


def test_ade20k(tmp_path):
    for split in ("training", "validation"):
        for part in ("images", "annotations"):
            (tmp_path / part / split).mkdir(parents=True)
        Image.new("RGB", (4, 2)).save(tmp_path / "images" / split / "a.jpg")
        Image.fromarray(np.array([[0, 1, 2, 150], [3, 3, 0, 0]], np.uint8)).save(
            tmp_path / "annotations" / split / "a.png"
        )
    lines = ["Idx\tRatio\tTrain\tVal\tStuff\tName", *(f"{n}\t0.1\t1\t1\t1\tname {n}, other" for n in range(1, 151))]
    (tmp_path / "objectInfo150.txt").write_text("\n".join(lines))
    source = open_pixels(tmp_path)
    assert (source.code.classes[0], len(source.code.classes)) == ("name 1", 150)
    labels, unknown = read(source)
    assert labels.tolist() == [[255, 0, 1, 149], [2, 2, 255, 255]]
    assert unknown == 0


def test_cityscapes(tmp_path):
    for split in ("train", "val"):
        for part in ("leftImg8bit", "gtFine"):
            (tmp_path / part / split / "ulm").mkdir(parents=True)
        Image.new("RGB", (3, 1)).save(tmp_path / "leftImg8bit" / split / "ulm" / "ulm_0_leftImg8bit.png")
        Image.fromarray(np.array([[7, 3, 33]], np.uint8)).save(
            tmp_path / "gtFine" / split / "ulm" / "ulm_0_gtFine_labelIds.png"
        )
    source = open_pixels(tmp_path)
    labels, unknown = read(source)
    assert list(source.code.classes) == list(CITYSCAPES)
    assert labels.tolist() == [[0, IGNORED, 18]]
    assert unknown == 0


def test_numbers_that_are_no_class_count_nowhere_or_are_refused():
    values = np.array([[0, 1, 7, 2, 255, 7]], np.uint8)
    labels, unknown = CODE.decode(png(values), (1, 6))
    assert labels.tolist() == [[0, 1, 255, 2, 255, 255]]
    assert unknown == 2
    with pytest.raises(MaskError, match=r"number 7 is no class \(2 pixels\)"):
        CODE.decode(png(values), (1, 6), strict=True)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (png(np.zeros((2, 3), np.uint8)), "the mask has 3 x 2 px and its image 6 x 1"),
        (png(np.zeros((1, 6, 3), np.uint8)), "has 3 channels and the data no table of colours"),
        (b"nothing", "the mask cannot be read"),
        (png(np.zeros((1, 6), np.uint8))[:40], "the mask cannot be read"),
    ],
)
def test_masks_that_cannot_be_used_say_why(content, told):
    with pytest.raises(MaskError, match=told):
        CODE.decode(content, (1, 6))


def test_huge_masks_are_not_opened():
    with pytest.raises(MaskError, match="more than the limit"):
        CODE.decode(png(np.zeros((100, 100), np.uint8)), (100, 100), max_pixels=9_999)


def test_images_without_a_mask_are_left_out_and_told_or_refused(tmp_path):
    root = write_scenes(tmp_path)
    (root / "train" / "masks" / "3.png").unlink()
    source = open_pixels(root)
    assert len(source.train) == 5
    assert "1 of 6 images" in source.notes[0]
    assert "3.png" in source.notes[0]
    with pytest.raises(ValueError, match=r"1 of 6 images .* have no mask"):
        open_pixels(root, strict=True)


def test_folders_that_lack_something_say_what(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        open_pixels(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="does not say its classes; write"):
        open_pixels(tmp_path)
    (tmp_path / "classes.txt").write_text("one\ntwo\n")
    with pytest.raises(ValueError, match="is of no known kind"):
        open_pixels(tmp_path)
    (tmp_path / "classes.txt").write_text("one\n")
    with pytest.raises(ValueError, match="names 1 classes"):
        open_pixels(tmp_path)
    (tmp_path / "classes.csv").write_text("name,r,g\nx,1,2\n")
    with pytest.raises(ValueError, match="needs a first line name,r,g,b"):
        open_pixels(tmp_path)


def test_colours_differ():
    colours = some_colours(150)
    assert len(np.unique(colours, axis=0)) == 150
    few = some_colours(12).astype(int)
    apart = np.abs(few[:, None] - few[None]).sum(-1) + 1000 * np.eye(12, dtype=int)
    assert apart.min() > 60


@pytest.mark.data
def test_camvid_is_read(data_dir):
    source = open_pixels(data_dir / "camvid")
    assert (len(source.train), len(source.val), len(source.code.classes)) == (367, 101, 11)
    labels, unknown = read(source, 0, "val")
    assert labels.shape == (360, 480)
    assert unknown == 0
    assert set(np.unique(labels)) <= set(range(11)) | {IGNORED}
