"""Masks in every form people keep them, and what is wrong with them."""

import io
import shutil
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from convneur.data.semantic import IGNORED, MaskEncoding, MaskError, open_pixels
from convneur.data.semantic.loading import MEAN, STD, ScaleAndCrop, pixel_transform
from convneur.data.semantic.masks import some_colours
from convneur.data.semantic.sources import CITYSCAPES
from tests.data.semantic.builders import CLASSES, COLOURS, scene, write_scenes

CODE = MaskEncoding(CLASSES, COLOURS)


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
    whole = open_pixels(tmp_path / "c", None)
    assert (len(whole.train), len(whole.val)) == (9, 9)
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
    for split in ("train", "val"):
        Image.fromarray(colours).save(root / split / "masks" / "0.png")
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


def test_a_binary_mask_of_0_and_255_is_no_mask_of_nothing():
    two = MaskEncoding(("background", "object"), COLOURS[:2])
    content = png(np.array([[0, 255, 255]], np.uint8))
    with pytest.raises(MaskError, match="the mask has 0 and 255, and 255 counts nowhere"):
        two.decode(content, (1, 3))
    black_and_white = MaskEncoding(("background", "object"), np.array([[0] * 3, [255] * 3], np.uint8), coloured=True)
    assert black_and_white.decode(content, (1, 3))[0].tolist() == [[0, 1, 1]]


def test_a_mask_is_turned_as_its_picture_is():
    labels = scene(0)[1]
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, _ = CODE.decode(png(labels, exif=exif), labels.shape[::-1])
    assert np.array_equal(turned, np.rot90(labels, -1))


@pytest.mark.parametrize(("bits", "number"), [(1, 1), (2, 2), (4, 2)])
def test_masks_of_few_bits_keep_their_numbers(bits, number):
    values = np.array([[0, 1, number, 0]], np.uint8)
    image = Image.fromarray(values, "P")
    image.putpalette([0, 0, 0, 255, 255, 255, 9, 9, 9])
    buffer = io.BytesIO()
    image.save(buffer, "png", bits=bits)
    assert CODE.decode(buffer.getvalue(), (1, 4))[0].tolist() == values.tolist()


def test_grey_masks_of_two_bits_keep_their_numbers():
    """Pillow spreads them over a byte; it cannot write them, so the file is put together here."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 4, 1, 2, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    content += chunk(b"IDAT", zlib.compress(bytes([0, 0b00011000]))) + chunk(b"IEND", b"")
    assert CODE.decode(content, (1, 4))[0].tolist() == [[0, 1, 2, 0]]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.zeros((1, 4, 2), np.uint8), "has 2 channels"),
        (np.array([[0, 0.5, 1, 0]], np.float32), "numbers that are not whole"),
        (np.array([[0, np.nan, 1, 0]], np.float32), "numbers that are not whole"),
    ],
)
def test_masks_of_other_kinds_are_refused(values, told):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "tiff" if values.dtype == np.float32 else "png")
    with pytest.raises(MaskError, match=told):
        CODE.decode(buffer.getvalue(), (1, 4))


def test_large_numbers_are_no_class():
    values = np.array([[0, 65537, -1, 1]], np.int32)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "tiff")
    labels, unknown = CODE.decode(buffer.getvalue(), (1, 4))
    assert labels.tolist() == [[0, IGNORED, IGNORED, 1]]
    assert unknown == 2


def test_a_folder_with_names_of_its_own_is_not_ade20k(tmp_path):
    root = write_scenes(tmp_path / "a")
    for split, name in (("train", "training"), ("val", "validation")):
        for part, other in (("images", "images"), ("masks", "annotations")):
            (tmp_path / "b" / other).mkdir(parents=True, exist_ok=True)
            shutil.copytree(root / split / part, tmp_path / "b" / other / name)
    (tmp_path / "b" / "classes.txt").write_text("\ufeff" + "\n".join(CLASSES), encoding="utf-8")
    source = open_pixels(tmp_path / "b")
    assert list(source.code.classes) == list(CLASSES)
    assert np.array_equal(read(source)[0], scene(0)[1])
    (tmp_path / "b" / "classes.txt").write_text("road\nroad\n")
    with pytest.raises(ValueError, match="names 'road' twice"):
        open_pixels(tmp_path / "b")


def test_pictures_and_masks_stay_in_step():
    """Scaled, cropped, mirrored: every pixel has the colour of its class, or counts nowhere."""
    _, labels = scene(3)
    flat = tv_tensors.Image(torch.from_numpy(COLOURS[np.where(labels == IGNORED, 0, labels)]).permute(2, 0, 1))
    colours = (torch.from_numpy(COLOURS).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    shares = []
    for _ in range(10):
        image, mask = pixel_transform((48, 80), (0.7, 1.6))(flat, tv_tensors.Mask(torch.from_numpy(labels)))
        assert image.shape == (3, 48, 80)
        counted = mask != IGNORED
        near = (image.permute(1, 2, 0)[counted] - colours[mask[counted].long()]).abs().max(1).values < 0.3
        shares.append(float(near.float().mean()))
    assert min(shares) > 0.9  # edges are blurred


def test_crops_of_a_single_class_are_drawn_anew():
    labels = np.zeros((64, 400), np.uint8)
    labels[:, 300:] = 1
    image = tv_tensors.Image(torch.zeros(3, 64, 400, dtype=torch.uint8))
    crop = ScaleAndCrop((1.0, 1.0), (64, 64), most=0.75)
    found = [float((crop(image, tv_tensors.Mask(torch.from_numpy(labels)))[1] == 1).float().mean()) for _ in range(40)]
    plain = ScaleAndCrop((1.0, 1.0), (64, 64))
    some = [float((plain(image, tv_tensors.Mask(torch.from_numpy(labels)))[1] == 1).float().mean()) for _ in range(40)]
    assert sum(0.25 <= each <= 0.75 for each in found) > 2 * sum(0.25 <= each <= 0.75 for each in some)


def test_scales_are_over_the_size_of_evaluation():
    image = tv_tensors.Image(torch.zeros(3, 200, 300, dtype=torch.uint8))
    mask = tv_tensors.Mask(torch.ones(200, 300, dtype=torch.uint8))
    _, cropped = ScaleAndCrop((1.0, 1.0), (100, 100), usual=50)(image, mask)
    assert int((cropped == 1).sum()) == 50 * 75
