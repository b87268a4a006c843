"""Rows of large images are what is stored, in whatever file."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image

from convneur.data.decode import UnreadableImageError
from convneur.streaming import open_large
from convneur.streaming.regions import Span, spans
from tests.streaming.builders import picture

zarr = pytest.importorskip("zarr", reason="TIFF files need zarr, which needs Python 3.11")


def as_bigtiff(path, pixels):
    tifffile.imwrite(path, pixels, bigtiff=True, tile=(64, 64), compression="deflate", photometric="rgb")


def as_ome(path, pixels):
    tifffile.imwrite(path, np.moveaxis(pixels, 2, 0), ome=True, photometric="minisblack", metadata={"axes": "CYX"})


def as_lzw(path, pixels):
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", compression="lzw", rowsperstrip=7)


def as_one_piece(path, pixels):
    tifffile.imwrite(path, pixels, photometric="rgb", compression="deflate", rowsperstrip=len(pixels))


def as_mapped(path, pixels):
    """As a program makes that writes into a file bit by bit."""
    image = tifffile.memmap(path, shape=pixels.shape, dtype=pixels.dtype, photometric="rgb", byteorder=">")
    image[:] = pixels
    image.flush()


def as_fortran(path, pixels):
    np.save(path, np.asfortranarray(pixels))


def as_zarr(path, pixels):
    zarr.save_array(path, pixels)


def as_ome_zarr(path, pixels):
    group = zarr.create_group(path)
    group.create_array("0", data=np.moveaxis(pixels, 2, 0)[None])
    axes = [{"name": name} for name in "tcyx"]
    group.attrs["ome"] = {"multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}


def as_npy(path, pixels):
    np.save(path, pixels)


def as_png(path, pixels):
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.tif", as_bigtiff),
        ("a.ome.tif", as_ome),
        ("b.tiff", as_lzw),
        ("c.tiff", as_one_piece),
        ("d.tiff", as_mapped),
        ("a.zarr", as_zarr),
        ("b.ome.zarr", as_ome_zarr),
        ("a.npy", as_npy),
        ("b.npy", as_fortran),
        ("a.png", as_png),
    ],
)
def test_rows_of_every_kind_of_file(name, write, tmp_path):
    pixels = picture(150, 90)
    write(tmp_path / name, pixels)
    image = open_large(tmp_path / name)
    assert (image.height, image.width, image.channels) == (150, 90, 3)
    for rows in spans(150, 47):
        np.testing.assert_allclose(image.read(rows, 3), pixels[rows.start : rows.stop] / 255, atol=1e-7)


def test_grey_sixteen_bits_and_bands():
    deep = (picture(40, 30, 1).astype(np.uint16) * 257)[..., 0]
    np.testing.assert_allclose(open_large(deep).read(Span(0, 40), 3)[..., 1], deep / 65535, atol=1e-7)
    bands = picture(40, 30, 4)
    np.testing.assert_allclose(open_large(bands).read(Span(3, 9), 4), bands[3:9] / 255, atol=1e-7)
    with pytest.raises(UnreadableImageError, match="nothing says that they are colours"):
        open_large(bands).read(Span(3, 9), 3)
    light = picture(40, 30).astype(np.float32) / 255
    kept = light.copy()
    np.testing.assert_allclose(open_large(light).read(Span(0, 40), 3), light)
    np.testing.assert_array_equal(light, kept)


def test_what_is_large_and_compressed_in_one_piece_is_refused(tmp_path, monkeypatch):
    as_one_piece(tmp_path / "a.tif", picture(150, 90))
    monkeypatch.setattr("convneur.data.rasters.LARGEST_PIECE", 150 * 90 * 3 - 1)
    with pytest.raises(UnreadableImageError, match=r"one piece of .* GB; store it in tiles"):
        open_large(tmp_path / "a.tif")


@pytest.mark.parametrize("damage", ["cut", "zeros"])
def test_what_is_compressed_in_one_piece_and_damaged_is_refused_in_one_line(damage, tmp_path):
    as_one_piece(tmp_path / "a.tif", picture(150, 90))
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        start, length = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    if damage == "cut":
        del content[start + length // 2 :]
    else:
        content[start + 100 : start + 200] = bytes(100)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(UnreadableImageError, match=r"\A[^\n]*a\.tif[^\n]*\Z"):
        open_large(tmp_path / "a.tif")


def test_files_that_are_no_image_say_so(tmp_path):
    for name in ("a.tif", "a.png", "a.npy"):
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(UnreadableImageError):
        open_large(tmp_path / "a.tif")
    with pytest.raises(UnreadableImageError):
        open_large(tmp_path / "a.png")
    with pytest.raises(UnreadableImageError):
        open_large(tmp_path / "a.npy")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UnreadableImageError, match="no Zarr array"):
        open_large(tmp_path / "folder")
