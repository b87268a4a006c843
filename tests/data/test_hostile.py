"""Files of strangers: nothing of them is run, no limit is passed, and no path leads out of the data."""

from __future__ import annotations

import io
import json
import os
import struct
import tarfile
import threading
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from convneur.data.decode import FORMATS, SUFFIXES, UnreadableImageError, decode_image
from convneur.data.formats.hub import HubImages
from convneur.data.image_files import PICTURES, find_image_files, find_images
from convneur.data.objects import open_objects
from convneur.data.paths import inside, matching, read_file
from convneur.data.semantic.sources import open_pixels
from convneur.data.shards import OrderedShards, Shards
from convneur.data.sources import open_source
from convneur.data.transforms import Preprocessing, eval_transform
from convneur.data.unlabelled import open_unlabelled
from convneur_command.main import main
from tests.data import files

PNG = files.encoded(files.plain(), "PNG")


def one_line(kind, match):
    """What raises must say it in one line."""
    return pytest.raises(kind, match=rf"\A(?=.*(?:{match}))[^\n]*\Z")


# Images


@pytest.mark.parametrize(
    "kind", ["ICO", "ICNS", "DDS", "PCX", "TGA", "SGI", "EPS", "IM", "MSP", "SPIDER", "XBM", "PDF"]
)
def test_formats_that_nobody_keeps_images_in_are_not_opened(kind):
    image = files.plain(size=(32, 32)).convert({"MSP": "1", "XBM": "1", "SPIDER": "F"}.get(kind, "RGB"))
    with one_line(UnreadableImageError, "not an image, or of a format that is not known"):
        decode_image(files.encoded(image, kind))


def test_an_icon_of_16_px_that_holds_a_large_png_is_refused():
    inner = files.bomb()
    header = struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22)
    with one_line(UnreadableImageError, "not an image"):
        decode_image(header + inner)


def test_formats_and_suffixes_are_those_that_pillow_has():
    Image.init()
    assert set(FORMATS) <= set(Image.OPEN) | {"AVIF", "HEIF"}
    for suffix in SUFFIXES - {".avif", ".heic", ".heif"}:
        assert Image.EXTENSION[suffix] in FORMATS
    assert SUFFIXES <= PICTURES


@pytest.mark.parametrize("size", [(1, 90_000_000), (90_000_000, 1), (65_536, 2)])
def test_sides_are_bounded(size):
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    with one_line(UnreadableImageError, "too long; a side may have 65,535 px"):
        decode_image(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


def tiff(**tags: int) -> bytes:
    """Of 16 x 16 px in one strip or tile, with some tags of another value."""
    entries = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1}
    entries |= {int(name[1:]): value for name, value in tags.items()}
    pixels = zlib.compress(bytes(256))
    offset, count = (324, 325) if 322 in entries else (273, 279)
    entries |= {offset: 8, count: len(pixels)}
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, entries[tag]) for tag in sorted(entries))
    start = 8 + len(pixels)
    return b"II*\0" + struct.pack("<I", start) + pixels + struct.pack("<H", len(entries)) + rows + bytes(4)


@pytest.mark.parametrize("tags", [{"t322": 2**30, "t323": 2**30}, {"t322": 16, "t323": 2**31 - 16}, {"t277": 60_000}])
def test_tiles_and_strips_larger_than_the_limit_are_refused_however_small_the_picture(tags):
    assert decode_image(tiff(t278=16)).size == (16, 16)
    assert decode_image(tiff(t278=2**32 - 1)).size == (16, 16)
    with one_line(UnreadableImageError, ""):
        decode_image(tiff(**tags), max_pixels=1_000_000)


def test_a_jpeg_of_thousands_of_scans_is_refused():
    buffer = io.BytesIO()
    files.plain(size=(64, 64)).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    last = content.rfind(b"\xff\xda")
    more = [content[:-2] + content[last : last + 10] * count + content[-2:] for count in (100, 300)]
    assert decode_image(more[0]).size == (64, 64)
    with one_line(UnreadableImageError, "scans; a JPEG may have 200"):
        decode_image(more[1])


@pytest.mark.parametrize("error", [MemoryError, OverflowError])
def test_want_of_memory_is_told_in_words(error, monkeypatch):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("convneur.data.decode.as_seen", fail)
    with one_line(UnreadableImageError, "takes more memory than there is"):
        decode_image(PNG)


@pytest.mark.parametrize("mode", ["I;16", "I", "F", "RGBA", "LA", "P"])
def test_images_converted_in_strips_are_as_those_converted_at_once(mode, monkeypatch):
    if mode in ("I", "F"):
        pytest.importorskip("zarr", reason="TIFF files need zarr, which needs Python 3.11")
    random = np.random.default_rng(0)
    if mode in ("I;16", "I"):
        image = Image.fromarray(random.integers(0, 65536, (40, 24)).astype(np.uint16 if mode == "I;16" else np.int32))
    elif mode == "F":
        image = Image.fromarray(random.uniform(size=(40, 24)).astype(np.float32))
    else:
        image = Image.fromarray(random.integers(0, 256, (40, 24, 4), dtype=np.uint8)).convert(mode)
    data = files.encoded(image, "TIFF" if mode in ("F", "I") else "PNG")
    whole = np.asarray(decode_image(data))
    monkeypatch.setattr("convneur.data.decode._STRIP", 24 * 7)
    monkeypatch.setattr("convneur.data.rasters._STRIP", 24 * 5)
    np.testing.assert_array_equal(np.asarray(decode_image(data)), whole)


def test_threads_decode_at_the_same_time_beyond_pillows_own_limit(monkeypatch):
    """Its limit is one for the process; ours holds in each thread, and nothing global changes."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    failed: list[Exception] = []

    def work() -> None:
        try:
            for _ in range(50):
                assert decode_image(PNG).size == (24, 16)
                assert Image.MAX_IMAGE_PIXELS == 10
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


# Devices, pipes, links


def test_pipes_devices_and_folders_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    for name, what in (("x.png", "a pipe"), ("zero.png", "a device"), ("folder.png", "a folder")):
        with one_line(OSError, what):
            read_file(tmp_path / name)
        with one_line(UnreadableImageError, what):
            decode_image(tmp_path / name)
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(2**31)
    with one_line(OSError, "huge.png has 2,147 MB; a file of its kind may have"):
        read_file(tmp_path / "huge.png")


def test_a_pipe_among_images_counts_as_unreadable_and_does_not_hang(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    os.mkfifo(tmp_path / "b.png")
    images = open_unlabelled(str(tmp_path))
    assert images.read(0) == PNG
    with one_line(OSError, "a pipe"):
        images.read(1)


def test_links_that_lead_in_a_circle_are_walked_once(tmp_path):
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "a.png").write_bytes(PNG)
    for name in ("a", "b", "z/c", "z/d"):
        (tmp_path / name).symlink_to(tmp_path)
    (tmp_path / "linked").symlink_to(tmp_path / "z")
    found = [str(tmp_path / "z" / "a.png")]
    assert find_image_files(tmp_path).files == found
    assert find_images([str(tmp_path)]) == found
    assert find_images([str(tmp_path / "**" / "*.png")]) == found
    assert [open_unlabelled(str(tmp_path / "**" / "*.png")).name(0)] == ["z/a.png"]
    outside = tmp_path / "other"
    outside.mkdir()
    (outside / "link").symlink_to(tmp_path / "z")
    assert find_image_files(outside).files == [str(outside / "link" / "a.png")]


def test_patterns_fit_what_they_fit_in_a_shell(tmp_path):
    for name in ("a.png", "s/b.png", "s/t/c.png", "s/.hidden/d.png", ".e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    assert matching(tmp_path, "*.png") == ["a.png"]
    assert matching(tmp_path, "**/*.png") == ["a.png", "s/b.png", "s/t/c.png"]
    assert matching(tmp_path, "s/**/c.png") == ["s/t/c.png"]
    assert matching(tmp_path, "**") == ["a.png", "s/b.png", "s/t/c.png"]


@pytest.mark.parametrize("name", ["classes.txt", "classes.csv"])
def test_a_list_of_classes_that_is_a_pipe_does_not_hang(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with one_line(OSError, "a pipe"):
        open_pixels(tmp_path)


# Paths in files


@pytest.fixture
def secret(tmp_path):
    """An image that lies beside the data."""
    (tmp_path / "secret.png").write_bytes(PNG)
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    return tmp_path / "secret.png"


PATHS = ["../secret.png", "../../secret.png", "{secret}", "link.png", "images/link.png", "a\0b.png", "", "~/secret.png"]


def test_inside_takes_what_is_in_the_folder_and_nothing_else(tmp_path, secret):
    data = tmp_path / "data"
    (tmp_path / "alias").symlink_to(data)
    assert inside(data, "images/a.png") == data / "images" / "a.png"
    assert inside(tmp_path / "alias", "images/../images/a.png").parent.name == "images"
    assert inside(data, str(data / "images" / "a.png"))
    assert inside(data / "images", "../b.png", data)
    for path in ("../secret.png", str(secret), "images/link.png", "a\0", ""):
        with one_line(ValueError, "leads out of|is no path"):
            inside(data, path)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("form", ["coco", "voc", "voc list", "parquet", "bulk"])
def test_paths_in_files_do_not_lead_out_of_the_data(form, path, tmp_path, secret):
    data, path = tmp_path / "data", path.format(secret=secret)
    if form == "coco":
        image = {"id": 1, "file_name": path, "width": 24, "height": 16}
        content = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
        for split in ("train", "val"):
            (data / f"instances_{split}.json").write_text(json.dumps(content))
    elif form.startswith("voc"):
        (data / "ImageSets" / "Main").mkdir(parents=True)
        (data / "Annotations").mkdir()
        (data / "images").rename(data / "JPEGImages")
        listed, named = ("a", path.replace("\0", "&#0;")) if form == "voc" else (path or "..", "a.png")
        xml = f"<annotation><filename>{named}</filename><size><width>24</width><height>16</height></size></annotation>"
        (data / "Annotations" / "a.xml").write_text(xml)
        (tmp_path / "secret.png.xml").write_text(xml)
        for split in ("train", "val"):
            (data / "ImageSets" / "Main" / f"{split}.txt").write_text(f"{listed}\n")
    else:
        rows = {"image": [{"bytes": None, "path": path}] * 4, "label": [0, 1, 0, 1]}
        pq.write_table(pa.table(rows), data / "rows.parquet")
    with one_line((ValueError, OSError), ""):
        if form == "parquet":
            open_source(str(data)).train.read(0)
        elif form == "bulk":
            open_unlabelled(str(data)).read(0)
        else:
            open_objects(data)


def test_parquet_may_name_images_beside_it(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(PNG)
    rows = {"image": [{"bytes": None, "path": "images/a.png"}] * 4, "label": [0, 1, 0, 1]}
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    assert open_source(str(tmp_path)).train.read(0) == PNG
    assert open_unlabelled(str(tmp_path)).read(3) == PNG


def test_labels_that_ask_for_a_million_classes_are_refused(tmp_path):
    for name, labels in (("a", [0, 10**15]), ("b", [0.5, 1.0]), ("c", [[1], [2]])):
        pq.write_table(pa.table({"image": [PNG, PNG], "label": labels}), tmp_path / f"{name}.parquet")
        with one_line(ValueError, f"{name}.parquet"):
            open_source(str(tmp_path / f"{name}.parquet"))


# Annotations


def laughs() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    return "\n".join([*lines, "names: *a29"])


@pytest.mark.parametrize(
    "text",
    [laughs(), "[" * 100_000, "names: [[a], [b]]", "names: {1: a, b: c}", "names: !!python/object/apply:os.system [x]"]
    + [f"names: [a, {value}]" for value in ("!!int ''", "!!float ''", "!!bool maybe", "!!timestamp x")]
    + [f"names: [a, {value}]" for value in ("1" + ":1" * 100_000, "1" + ":1" * 400 + ".0", "0x" + "f" * 5000)],
    ids=range(12),
)
def test_yaml_that_runs_or_grows_is_refused(text, tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder / "train").mkdir(parents=True)
    (tmp_path / "data.yaml").write_text(text)
    with one_line(ValueError, "data.yaml"):
        open_objects(tmp_path)


def voc(folder: Path, xml: str) -> Path:
    for place in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / place).mkdir(parents=True)
    (folder / "Annotations" / "a.xml").write_text(xml)
    (folder / "JPEGImages" / "a.jpg").write_bytes(PNG)
    for split in ("train", "val"):
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("a\n")
    return folder


@pytest.mark.parametrize("encoding", ["rot13", "unknown", "big5"])
def test_xml_of_an_encoding_that_is_none_is_refused(encoding, tmp_path):
    with one_line(ValueError, "a.xml is no annotation that can be read"):
        open_objects(voc(tmp_path, f'<?xml version="1.0" encoding="{encoding}"?><annotation/>'))


def test_boxes_that_are_infinite_in_single_precision_are_refused(tmp_path):
    box = "<bndbox><xmin>-1e300</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    xml = f"<a><size><height>8</height><width>8</width></size><object><name>a</name>{box}</object></a>"
    with one_line(ValueError, "a.xml is no annotation that can be read: bndbox/xmin"):
        open_objects(voc(tmp_path, xml))


@pytest.mark.parametrize("text", ["[" * 200_000, '{"images": 1e999}', "\xff\xfe", "{"])
def test_json_that_is_nested_without_end_is_refused(text, tmp_path):
    for split in ("train", "val"):
        (tmp_path / f"instances_{split}.json").write_bytes(text.encode("latin-1"))
    with one_line(ValueError, "instances_train.json"):
        open_objects(tmp_path)
    if text != '{"images": 1e999}':
        with one_line(ValueError, "instances_val.json"):
            open_source(f"wds:{tmp_path / 'instances_val.json'}")


# Shards


def described(path: Path, urls: list[str], samples: int = 4) -> str:
    told = {"train": urls, "train_samples": samples, "val": urls, "val_samples": samples, "classes": ["a", "b"]}
    path.write_text(json.dumps(told))
    return f"wds:{path}"


def test_commands_and_addresses_are_taken_only_if_that_is_allowed(tmp_path):
    pytest.importorskip("webdataset")
    tar(tmp_path / "0.tar", {"a.png": PNG, "a.cls": b"1"})
    command = f"pipe:touch {tmp_path / 'ran'}; cat {tmp_path / '0.tar'}"
    for url in (command, command.upper(), "https://host.invalid/0.tar", "s3://b/0.tar", f"file:{tmp_path}/0.tar"):
        with one_line(ValueError, "set.json names .*add --allow-remote if you trust"):
            open_source(described(tmp_path / "set.json", [url]))
    for spec in (command, "https://host.invalid/set.json"):
        with one_line(ValueError, "is no file here"):
            open_source(f"wds:{spec}")
        with one_line((ValueError, OSError), ""):
            open_unlabelled(f"wds:{spec}")
    transform = eval_transform(Preprocessing((3, 8, 8), (0.5,) * 3, (0.5,) * 3))
    with one_line(ValueError, "--allow-remote"):
        next(iter(OrderedShards(Shards((command,), 1, 2), transform, 1)))
    assert not (tmp_path / "ran").exists()
    allowed = open_source(described(tmp_path / "set.json", [command], 1), allow_remote=True).val
    batch = next(iter(OrderedShards(allowed, transform, 1)))
    assert (tmp_path / "ran").exists()
    assert batch.labels.tolist() == [1]


def test_the_command_line_says_so_in_one_line(tmp_path, capsys):
    pytest.importorskip("webdataset")
    spec = described(tmp_path / "set.json", [f"pipe:touch {tmp_path / 'ran'}"])
    assert main(["train", "--data", spec, "--out", str(tmp_path / "run")]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("convneur: ")]
    assert len(said) == 1
    assert "which runs a command; give files of this machine, or add --allow-remote" in said[0]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("url", ["{0..99999999999}.tar", "{0..9999}{0..9999}{0..9999}.tar", "{", "/nowhere/0.tar", 7])
def test_descriptions_that_make_no_sense_are_refused(url, tmp_path):
    pytest.importorskip("webdataset")
    with one_line((ValueError, OSError), "set.json"):
        open_source(described(tmp_path / "set.json", [url]))


def tar(path: Path, members: dict[str, bytes], change=lambda info: None) -> None:
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            change(info)
            file.addfile(info, io.BytesIO(content))


def odd(kind: str, path: Path) -> None:
    def change(info: tarfile.TarInfo) -> None:
        types = {
            "link": tarfile.SYMTYPE,
            "hard link": tarfile.LNKTYPE,
            "device": tarfile.CHRTYPE,
            "fifo": tarfile.FIFOTYPE,
        }
        if kind in types:
            info.type, info.linkname, info.size = types[kind], "/etc/passwd", 0

    tar(path, {"a.png": PNG, "a.cls": b"9" * (10_000 if kind == "label" else 1)}, change)
    content = bytearray(path.read_bytes())
    if kind == "size":
        info = tarfile.TarInfo("a.png")
        info.size = 2**50
        content[:512] = info.tobuf(tarfile.GNU_FORMAT)
    elif kind == "header":  # of the second member, which tarfile takes for the end
        content[1024 + 3] ^= 1
    elif kind == "end":
        del content[-10240:]
        content += bytes(-len(content) % 512)
        content = content[:2048]
    elif kind == "more":
        content += bytes(content)
    elif kind == "cut":
        del content[1500:]
    path.write_bytes(content)


@pytest.mark.parametrize(
    "kind", ["link", "hard link", "device", "fifo", "size", "label", "header", "end", "more", "cut"]
)
def test_shards_that_are_damaged_or_hold_other_things_than_files_are_refused(kind, tmp_path):
    for split in ("train", "val"):
        odd(kind, tmp_path / f"{split}-0.tar")
    with one_line(ValueError, "-0.tar is no whole shard"):
        open_source(f"wds:{tmp_path}")
    with one_line(ValueError, "-0.tar is no whole shard"):
        open_unlabelled(f"wds:{tmp_path}")


def test_shards_that_are_pipes_do_not_hang(tmp_path):
    for split in ("train", "val"):
        os.mkfifo(tmp_path / f"{split}-0.tar")
    for opened in (open_source, open_unlabelled):
        with one_line(OSError, "a pipe"):
            opened(f"wds:{tmp_path}")


# Hugging Face


CARD = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: ../secret/*.png\n---\n"


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("README.md", CARD.replace("\n", "\r\n")),
        ("README.md", CARD.replace("\n", "\r")[:-1] + "\n"),
        ("README.md", CARD[:-1]),
        ("README.md", CARD[:-1] + "  \n"),
        (".huggingface.yaml", CARD[4:-4]),
    ],
    ids=["crlf", "cr", "no end of line", "spaces", "yaml alone"],
)
def test_cards_are_taken_apart_as_they_are_read_afterwards(name, card, tmp_path):
    pytest.importorskip("datasets")
    for label in ("a", "b"):
        (tmp_path / "set" / label).mkdir(parents=True)
        (tmp_path / "set" / label / "0.png").write_bytes(PNG)
    (tmp_path / "set" / name).write_bytes(card.encode())
    with one_line(ValueError, f"{name} names data that is not in its folder"):
        open_source(f"hf:{tmp_path / 'set'}")


def test_a_card_of_values_that_are_none_is_refused(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "README.md").write_text("---\na: !!bool maybe\n---\n")
    with one_line(ValueError, "README.md is no YAML that can be read"):
        open_source(f"hf:{tmp_path}")


def test_datasets_with_programs_or_files_elsewhere_are_refused(tmp_path):
    pytest.importorskip("datasets")
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "0.png").write_bytes(PNG)
    for text in ("https://host.invalid/x.csv", "../secret/*.png", "/etc/hosts"):
        card = f"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {text}\n---\n"
        (tmp_path / "set" / "README.md").write_text(card)
        with one_line(ValueError, "README.md names data that is not in its folder"):
            open_source(f"hf:{tmp_path / 'set'}")
    (tmp_path / "set" / "README.md").unlink()
    (tmp_path / "set" / "set.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with one_line(ValueError, "set.py is a program"):
        open_source(f"hf:{tmp_path / 'set'}")
    with one_line(ValueError, "neither a name on the hub nor a folder"):
        open_source(f"hf:{tmp_path / 'set' / 'set.py'}")
    with one_line(ValueError, "neither a name on the hub nor a folder"):
        open_source("hf:https://host.invalid/set")
    assert not (tmp_path / "ran").exists()


def test_saved_datasets_read_no_file_outside_of_their_folder(tmp_path):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "secret.png").write_bytes(PNG)
    rows = [{"image": {"bytes": None, "path": str(tmp_path / "secret.png")}}]
    with one_line(OSError, "leads out of"):
        HubImages(rows, "image", [0], "hf:set", [tmp_path / "set"]).read(0)
    datasets.Dataset.from_dict({"image": [PNG], "label": [0]}).save_to_disk(str(tmp_path / "set"))
    state = tmp_path / "set" / "state.json"
    state.write_text(state.read_text().replace("data-00000", "../data-00000"))
    with one_line(ValueError, "state.json names data that is not in its folder"):
        open_source(f"hf:{tmp_path / 'set'}")
