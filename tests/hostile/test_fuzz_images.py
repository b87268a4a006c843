"""Damaged images, arrays and archives of images: each is read, or refused in one line, in bounded memory."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, features

from tests.data import files
from tests.embedding.builders import photos
from tests.hostile.mutations import MUTATIONS, mutated, run_bounded
from tests.streaming.builders import picture

zarr = pytest.importorskip("zarr", reason="TIFF files need zarr, which needs Python 3.11")

pytestmark = pytest.mark.slow

COMMON = """
import shutil, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
root = Path(sys.argv[1])
read = refused = 0
for path in sorted(root.iterdir()):
    try:
        use(path)
        read += 1
    except (ValueError, OSError) as error:
        assert str(error) and "\\n" not in str(error), (path, repr(error))
        refused += 1
    except BaseException as error:
        raise AssertionError(f"{path.name}: {error!r}") from error
print(read, refused)
"""
DECODE = """
from convneur.data.decode import decode_image
def use(path):
    image = decode_image(path)
    assert image.mode == "RGB" and image.width * image.height <= 100_000_000
"""
LARGE = """
import logging
import numpy as np
logging.disable()
from convneur.streaming.sources import open_large
from convneur.streaming.regions import spans
def use(path):
    image = open_large(path)
    for rows in list(spans(image.height, 64))[:4]:
        raw = image.raw(rows)
        light = image.read(rows, image.channels)
        assert np.isfinite(light).all() and light.min() >= 0 and light.max() <= 1
        assert raw.shape == (rows.stop - rows.start, image.width, image.channels), raw.shape
"""
TRAINED = """
from convneur.data.shards import OrderedShards
from convneur.data.sources import open_source
from convneur.data.transforms import Preprocessing, eval_transform
transform = eval_transform(Preprocessing((3, 8, 8), (0.5,) * 3, (0.5,) * 3))
def use(path):
    folder = path.with_suffix("")
    folder.mkdir()
    try:
        for split in ("train", "val"):
            shutil.copy(path, folder / f"{split}-0.tar")
        shards = open_source(f"wds:{folder}").val
        found = sum(len(batch.images) for batch in OrderedShards(shards, transform, 4))
        assert found == shards.count, (found, shards.count)
    finally:
        shutil.rmtree(folder)
"""
EMBEDDED = """
from convneur.data.unlabelled import open_unlabelled
def use(path):
    images = open_unlabelled(f"wds:{path}")
    for index in range(len(images)):
        assert images.read(index)
"""


def fuzz(root: Path, whole: dict[str, bytes], script: str) -> tuple[int, int]:
    """How many of the mutations of some files were read, and how many refused; all by one child process."""
    root.mkdir()
    names = sorted(whole)
    for seed in range(MUTATIONS):
        name = names[seed // 6 % len(names)]  # each of the six kinds of mutation for each file
        (root / f"{seed:03d}-{name}").write_bytes(mutated(whole[name], seed))
    read, refused = map(int, run_bounded(script + COMMON, root, seconds=180).split()[-2:])
    assert read + refused == MUTATIONS
    return read, refused


def tiffs(folder: Path) -> dict[str, bytes]:
    pixels = picture(90, 60)
    made = {}
    for name, options in {
        "tiles.tif": {"tile": (32, 32), "compression": "zlib"},
        "lzw.tif": {"compression": "lzw", "rowsperstrip": 16},
        "plain.tif": {},
        "jpeg.tif": {"tile": (32, 32), "compression": "jpeg"},
        "big.tif": {"bigtiff": True, "tile": (32, 32), "compression": "zlib", "predictor": True},
        "floats.tif": {"tile": (32, 32), "compression": "zlib", "dtype": np.float32},
        "nodata.tif": {"extratags": [(42113, "s", 0, "-9999", True)], "compression": "zlib", "rowsperstrip": 90},
        "turned.tif": {"extratags": [(274, "H", 1, 6, True)], "dtype": np.float32, "compression": "zlib"},
    }.items():
        kind = options.pop("dtype", np.uint8)
        tifffile.imwrite(folder / name, pixels.astype(kind), photometric="rgb", **options)
        made[name] = (folder / name).read_bytes()
    return made


@pytest.mark.parametrize("script", [DECODE, LARGE], ids=["decode_image", "open_large"])
def test_tiff(script, tmp_path):
    (tmp_path / "whole").mkdir()
    read, refused = fuzz(tmp_path / "damaged", tiffs(tmp_path / "whole"), script)
    assert read > 10
    assert refused > 10


def test_png_jpeg_and_others(tmp_path):
    image = Image.fromarray(picture(60, 90))
    kinds = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM", "JPEG2000"]
    whole = {f"a.{kind.lower()}": files.encoded(image, kind) for kind in kinds}
    whole |= {
        "deep.png": files.sixteen_bit_png(),
        "clear.png": files.transparent_png(),
        "turned.jpg": files.rotated_jpeg(),
    }
    if features.check("avif"):
        whole["a.avif"] = files.encoded(image, "AVIF")
    read, refused = fuzz(tmp_path / "damaged", whole, DECODE)
    assert read > 10
    assert refused > 10


def test_heic(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.fromarray(picture(60, 90))).save(tmp_path / "a.heic")
    read, refused = fuzz(tmp_path / "damaged", {"a.heic": (tmp_path / "a.heic").read_bytes()}, DECODE)
    assert read > 10
    assert refused > 10


def test_ico_is_never_opened(tmp_path):
    whole = {"a.ico": files.encoded(files.plain(size=(64, 64)), "ICO")}
    assert fuzz(tmp_path / "damaged", whole, DECODE) == (0, MUTATIONS)


@pytest.mark.parametrize("script", [TRAINED, EMBEDDED], ids=["training", "embedding"])
def test_tar(script, tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number, content in enumerate(photos(6)):
            for name, each in ((f"p/{number}.jpg", content[:1500]), (f"p/{number}.cls", b"%d" % (number % 2))):
                info = tarfile.TarInfo(name)
                info.size = len(each)
                tar.addfile(info, io.BytesIO(each))
    _, refused = fuzz(tmp_path / "damaged", {"a.tar": buffer.getvalue()}, script)
    assert refused > 30


@pytest.mark.parametrize("version", [2, 3])
def test_zarr(version, tmp_path):
    """Its metadata in half of the mutations, a chunk in the others."""
    array = tmp_path / "whole.zarr"
    zarr.create_array(array, data=picture(60, 40), chunks=(16, 40, 3), zarr_format=version)
    metadata = array / (".zarray" if version == 2 else "zarr.json")
    chunk = array / ("0.0.0" if version == 2 else "c/0/0/0")
    (tmp_path / "damaged").mkdir()
    for seed in range(MUTATIONS):
        damaged = tmp_path / "damaged" / f"{seed:03d}.zarr"
        for file in array.rglob("*"):
            if file.is_file():
                content = file.read_bytes()
                place = damaged / file.relative_to(array)
                place.parent.mkdir(parents=True, exist_ok=True)
                chosen = metadata if seed // 6 % 2 else chunk
                place.write_bytes(mutated(content, seed) if file == chosen else content)
    read, refused = map(int, run_bounded(LARGE + COMMON, tmp_path / "damaged", seconds=180).split()[-2:])
    assert read + refused == MUTATIONS
    assert refused > 50


def test_npy_and_archives_of_them(tmp_path):
    buffer, archive = io.BytesIO(), io.BytesIO()
    np.save(buffer, picture(60, 40))
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.npy", buffer.getvalue())
    whole = {"a.npy": buffer.getvalue(), "b.npz": archive.getvalue(), "c.npy": archive.getvalue()}
    _, refused = fuzz(tmp_path / "damaged", whole, LARGE)
    assert refused > MUTATIONS // 2
