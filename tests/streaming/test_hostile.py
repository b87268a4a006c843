"""Large images of strangers: nothing of them is run, and what is read of them at a time is bounded."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from convneur.data.decode import UnreadableImageError
from convneur.streaming import open_large
from convneur.streaming.regions import Span
from tests.streaming.builders import picture
from tests.streaming.test_sources import as_ome_zarr

zarr = pytest.importorskip("zarr", reason="TIFF files need zarr, which needs Python 3.11")
numcodecs = pytest.importorskip("numcodecs", reason="comes with zarr")


def refused(match: str = ""):
    return pytest.raises(UnreadableImageError, match=rf"\A(?=.*(?:{match}))[^\n]*\Z")


def array(folder: Path, version: int) -> Path:
    zarr.create_array(folder, data=picture(40, 30), chunks=(16, 30, 3), zarr_format=version)
    return folder / (".zarray" if version == 2 else "zarr.json")


def changed(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


PICKLE = {"id": "pickle", "protocol": 5}
V2 = {
    "objects": {"dtype": "|O"},
    "structs": {"dtype": [["a", "<i4"]]},
    "text": {"dtype": "<U10"},
    "a pickle filter": {"filters": [PICKLE]},
    "a pickle compressor": {"compressor": PICKLE},
    "objects and a pickle filter": {"dtype": "|O", "filters": [PICKLE], "fill_value": None},
    "another codec": {"filters": [{"id": "vlen-utf8"}]},
    "a filter of objects": {"filters": [{"id": "delta", "dtype": "|O"}]},
    "a codec without a name": {"compressor": {}},
    "a codec of a million to one": {"compressor": {"id": "bz2", "level": 9}},
    "a huge chunk": {"chunks": [2**20, 2**20, 3]},
    "a huge axis": {"shape": [2**62, 30, 3]},
    "chunks without end": {"shape": [2**20, 2**20, 3], "chunks": [1, 1, 1]},
    "a negative axis": {"shape": [-1, 30, 3]},
    "no list": {"shape": 7},
    "fewer axes": {"chunks": [16]},
    "a text to fill with": {"fill_value": "gASVBwAAAAAAAABDA"},
    "another version": {"zarr_format": 7},
    "a separator that is a path": {"dimension_separator": "/../"},
}
V3 = {
    "text": {"data_type": "string"},
    "bytes": {"data_type": {"name": "null_terminated_bytes", "configuration": {"length_bytes": 8}}},
    "a pickle codec": {"codecs": [{"name": "numcodecs.pickle", "configuration": {}}]},
    "another codec": {"codecs": [{"name": "vlen-utf8"}]},
    "a shard of pickles": {
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": [16, 30, 3],
                    "codecs": [{"name": "numcodecs.pickle"}],
                    "index_codecs": [{"name": "bytes"}],
                },
            }
        ]
    },
    "a huge chunk": {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2**20, 2**20, 3]}}},
    "another grid": {"chunk_grid": {"name": "rectilinear", "configuration": {}}},
    "transformers": {"storage_transformers": [{"name": "x"}]},
    "codecs that are none": {"codecs": "bytes"},
}


@pytest.mark.parametrize(
    ("version", "changes"),
    [*((2, each) for each in V2.values()), *((3, each) for each in V3.values())],
    ids=[*(f"2, {name}" for name in V2), *(f"3, {name}" for name in V3)],
)
def test_arrays_are_refused_by_their_metadata(version, changes, tmp_path, monkeypatch):
    file = array(tmp_path / "a.zarr", version)
    open_large(tmp_path / "a.zarr")
    changed(file, **changes)
    monkeypatch.setattr(zarr, "open_array", lambda *_, **__: pytest.fail("it was opened"))
    with refused(f"{file.name} is refused: .*store the image anew"):
        open_large(tmp_path / "a.zarr")


@pytest.mark.parametrize("text", ["{", "[" * 200_000, "7", "\xff\xfe"])
@pytest.mark.parametrize("version", [2, 3])
def test_metadata_that_are_none_are_refused(version, text, tmp_path):
    array(tmp_path / "a.zarr", version).write_bytes(text.encode("latin-1"))
    with refused("zarr"):
        open_large(tmp_path / "a.zarr")


def test_numbers_in_well_known_codecs_are_read(tmp_path):
    pixels = picture(40, 30)
    from numcodecs import Delta, Shuffle

    for number, (version, options) in enumerate(
        [
            (2, {"compressors": numcodecs.LZ4(), "filters": [Delta(dtype="u1")]}),
            (2, {"compressors": None, "filters": [Shuffle(1)]}),
            (3, {"compressors": zarr.codecs.GzipCodec()}),
            (3, {"shards": (32, 30, 3), "compressors": zarr.codecs.BloscCodec()}),
        ]
    ):
        zarr.create_array(tmp_path / str(number), data=pixels, chunks=(16, 30, 3), zarr_format=version, **options)
        image = open_large(tmp_path / str(number))
        np.testing.assert_array_equal(image.raw(Span(3, 39)), pixels[3:39])


@pytest.mark.parametrize("path", ["../secret.zarr", "{secret}", "link", "a\0", ""])
def test_images_of_a_group_do_not_lead_out_of_it(path, tmp_path):
    array(tmp_path / "secret.zarr", 3)
    as_ome_zarr(tmp_path / "a.zarr", picture(40, 30))
    (tmp_path / "a.zarr" / "link").symlink_to(tmp_path / "secret.zarr")
    group = zarr.open_group(tmp_path / "a.zarr")
    about = dict(group.attrs["ome"])
    about["multiscales"][0]["datasets"][0]["path"] = path.format(secret=tmp_path / "secret.zarr")
    group.attrs["ome"] = about
    with refused("leads out of|is no path"):
        open_large(tmp_path / "a.zarr")


def test_every_resolution_of_a_group_is_checked_and_nothing_else(tmp_path):
    as_ome_zarr(tmp_path / "a.zarr", picture(40, 30))
    (tmp_path / "a.zarr" / ".zmetadata").write_text('{"metadata": {"0/.zarray": {"dtype": "|O"}}}')
    file = array(tmp_path / "a.zarr" / "1", 2)
    group = zarr.open_group(tmp_path / "a.zarr")
    about = dict(group.attrs["ome"])
    about["multiscales"][0]["datasets"].append({"path": "1"})
    group.attrs["ome"] = about
    assert open_large(tmp_path / "a.zarr").height == 40
    changed(file, filters=[PICKLE])
    with refused("1/.zarray is refused: the codec 'pickle'"):
        open_large(tmp_path / "a.zarr")


@pytest.mark.parametrize("kind", ["link", "pipe", "metadata"])
def test_chunks_are_files_in_the_array(kind, tmp_path):
    file = array(tmp_path / "a.zarr", 2)
    chunk = file.parent / "0.0.0" if kind != "metadata" else file
    chunk.rename(tmp_path / "moved")
    if kind == "pipe":
        os.mkfifo(chunk)
    else:
        chunk.symlink_to(tmp_path / "moved")
    with refused("a.zarr.*(leads out of|a pipe)"):
        open_large(tmp_path / "a.zarr")


@pytest.mark.parametrize(("version", "name"), [(2, "0.0.0"), (3, "c/0/0/0")])
@pytest.mark.parametrize("codec", ["blosc", "lz4", "plain"])
def test_a_chunk_does_not_become_more_than_the_array_says(version, name, codec, tmp_path):
    folder = tmp_path / "a.zarr"
    compressors: Any = {
        (2, "blosc"): numcodecs.Blosc(),
        (2, "lz4"): numcodecs.LZ4(),
        (3, "blosc"): zarr.codecs.BloscCodec(),
    }.get((version, codec))
    zarr.create_array(
        folder, data=picture(40, 30), chunks=(16, 30, 3), zarr_format=version, compressors=compressors, filters=None
    )
    assert open_large(folder).height == 40
    zeros = bytes(2**22)
    encoders = {"blosc": numcodecs.Blosc(), "lz4": numcodecs.LZ4()}
    (folder / name).write_bytes(zeros if compressors is None else encoders[codec].encode(zeros))
    with refused(f"{Path(name).name}.* for a chunk of 1,440"):
        open_large(folder)


def test_folders_in_folders_without_end_are_looked_through(tmp_path, monkeypatch):
    array(tmp_path / "a.zarr", 2)
    monkeypatch.chdir(tmp_path / "a.zarr")
    try:
        for _ in range(1200):
            os.mkdir("a")  # noqa: PTH102  a path of all of them would be long
            os.chdir("a")
        assert open_large(tmp_path / "a.zarr").height == 40
    finally:  # pytest itself could not remove them
        subprocess.run(["rm", "-rf", str(tmp_path / "a.zarr")], check=True)


def test_arrays_of_objects_and_archives_are_not_opened(tmp_path):
    np.save(tmp_path / "o.npy", np.array([[{}, 1], [2, 3]], dtype=object), allow_pickle=True)
    with refused("o.npy is no .npy file of numbers .*[Oo]bject"):
        open_large(tmp_path / "o.npy")
    np.savez(tmp_path / "a.npz", picture(8, 8))
    with refused("a.npz is an archive of arrays; save the one that is meant as .npy"):
        open_large(tmp_path / "a.npz")
    (tmp_path / "a.npz").rename(tmp_path / "z.npy")
    with refused("z.npy is no .npy file"):
        open_large(tmp_path / "z.npy")
    for shape in ("(4611686018427387904, 8)", "(99999, 99999)", "(-1, 8)", "(8,)", "(True, 8)", "(0, 8)"):
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        (tmp_path / "s.npy").write_bytes(
            b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(64)
        )
        with refused("s.npy"):
            open_large(tmp_path / "s.npy")


def test_pipes_and_devices_are_no_images(tmp_path):
    for name in ("a.tif", "a.png", "a.npy"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(OSError, match="a pipe"):
            open_large(tmp_path / name)


def write_tiff(path: Path, **changes: int) -> Path:
    tifffile.imwrite(path, picture(64, 64), tile=(32, 32), compression="jpeg", photometric="rgb", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as file:
        for name, value in changes.items():
            file.pages[0].tags[name].overwrite(value)
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"TileWidth": 65_520, "TileLength": 65_520},
        {"ImageWidth": 2**31 - 1},
        {"Compression": 50002},
        {"Compression": 9},
    ],
)
def test_tiffs_are_refused_by_their_tags(changes, tmp_path):
    if changes.get("TileWidth"):
        tifffile.imwrite(
            tmp_path / "a.tif", np.zeros((64, 64), np.uint8), tile=(32, 32), compression="zlib", dtype="u1"
        )
        content = (tmp_path / "a.tif").read_bytes()
        with tifffile.TiffFile(tmp_path / "a.tif") as file:
            places = [file.pages[0].tags[name] for name in changes]
        for tag in places:
            start = tag.valueoffset
            content = content[:start] + (65_520).to_bytes(2, "little") + content[start + 2 :]
        (tmp_path / "a.tif").write_bytes(content)
    else:
        write_tiff(tmp_path / "a.tif", **changes)
    with refused("a.tif"):
        open_large(tmp_path / "a.tif")


def test_tiles_that_say_they_are_larger_than_they_are_allowed_are_refused(tmp_path):
    path = write_tiff(tmp_path / "a.tif")
    assert open_large(path).height == 64
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        start = content.index(b"\xff\xc0", file.pages[0].dataoffsets[1])
    content[start + 5 : start + 9] = b"\xff\xdc\xff\xdc"
    path.write_bytes(content)
    with refused("say they have 65500 x 65500 px"):
        open_large(path)


@pytest.mark.parametrize(
    "change",
    [('SizeT="1"', 'SizeT="999999999"'), ("<TiffData", '<TiffData IFD="0" PlaneCount="999999999"'), "elsewhere"],
)
def test_ome_metadata_name_no_file_elsewhere_and_no_million_planes(change, tmp_path):
    (tmp_path / "data").mkdir()
    tifffile.imwrite(tmp_path / "secret.tif", picture(40, 30), photometric="rgb")
    uuid = '<TiffData><UUID FileName="../secret.tif">urn:uuid:1</UUID></TiffData>'
    ome = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels ID="P:0" DimensionOrder="XYCZT" Type="uint8" SizeX="30" SizeY="40" SizeC="3" SizeZ="1" SizeT="1">'
        f'<Channel ID="C:0" SamplesPerPixel="3"/>{uuid if change == "elsewhere" else "<TiffData/>"}'
        "</Pixels></Image></OME>"
    )
    if change != "elsewhere":
        assert change[0] in ome
        ome = ome.replace(*change)
    tifffile.imwrite(
        tmp_path / "data" / "a.ome.tif", picture(40, 30), photometric="rgb", description=ome, metadata=None
    )
    with refused("leads out of|planes"):
        open_large(tmp_path / "data" / "a.ome.tif")
