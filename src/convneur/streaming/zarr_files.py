"""What a Zarr array says of itself, checked before anything of it is decoded: its codecs may be programs.

A filter such as ``pickle`` runs what a file holds, and others read any file. So numbers and well-known codecs are all
that is opened, and only in arrays whose sizes make sense.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from convneur.data.decode import UnreadableImageError
from convneur.data.paths import inside, read_json
from convneur.files import regular_file

LARGEST_CHUNK = 2**29  # bytes, decoded
OVERHEAD = 2**16  # bytes that a stored chunk may have beside those that it is made of
LONGEST = 2**31 - 1  # of an axis
MOST_AXES = 8
MOST_CHUNKS = 100_000  # side by side, which is how many may have to be read for a row
# Of version 2, by their names in numcodecs; version 3 has its own names for some, and may name any of numcodecs'.
# Without bz2 and lzma: a kilobyte of theirs can become a gigabyte before anybody knows.
CODECS = frozenset(
    (
        "adler32",
        "blosc",
        "crc32",
        "crc32c",
        "delta",
        "fletcher32",
        "gzip",
        "lz4",
        "shuffle",
        "zlib",
        "zstd",
    )
)
CODECS_3 = frozenset(("bytes", "transpose", "gzip", "blosc", "zstd", "crc32c"))
NUMBERS = re.compile(r"[<>|=]?[uif][1248]")
NUMBERS_3 = re.compile(r"u?int(8|16|32|64)|float(16|32|64)")


class _RefusedError(ValueError):
    """What is wrong, without the name of the file."""


def zarr_image(folder: Path) -> tuple[Path, str | None]:
    """The array to open in a folder.

    Args:
        folder: A Zarr array, or a group of OME-Zarr, of which the first of several resolutions is taken.

    Returns:
        Its folder, and the names of its axes (upper case), if they are known.

    Raises:
        UnreadableImageError: If the folder is neither, or an array in it is not to be opened; one line with the file.
    """
    try:
        if _is_array(folder):
            check_array(folder)
            return folder, None
        scales = _scales(folder)
        axes = "".join(str(axis["name"]) for axis in scales["axes"]).upper()
        levels = [inside(folder, str(level["path"])) for level in scales["datasets"]]
        for level in levels:
            check_array(level)
        return levels[0], axes
    except UnreadableImageError:
        raise
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise UnreadableImageError(
            f"{folder} is no Zarr array or OME-Zarr image ({type(error).__name__}: {error})"
        ) from error
    except (ValueError, OSError) as error:
        raise UnreadableImageError(f"{folder} is no Zarr array or OME-Zarr image ({error})") from error


def check_array(folder: Path) -> None:
    """Refuse an array by its metadata: of other things than numbers, of codecs that are not known, or too large.

    Raises:
        UnreadableImageError: With the file and what is wrong in it.
    """
    file = folder / "zarr.json" if (folder / "zarr.json").exists() else folder / ".zarray"
    if not file.exists():
        raise UnreadableImageError(f"{folder} is no Zarr array; it has neither zarr.json nor .zarray")
    about = read_json(file)
    try:
        if not isinstance(about, dict):
            raise _RefusedError("no object of JSON")
        largest, codec = (_check_3 if file.name == "zarr.json" else _check_2)(about)
        _check_files(folder, largest, codec)
    except (_RefusedError, KeyError, TypeError) as error:
        reason = str(error) if isinstance(error, _RefusedError) else f"{type(error).__name__}: {error}"
        raise UnreadableImageError(f"{file} is refused: {reason}; store the image anew, as numbers") from error


def _is_array(folder: Path) -> bool:
    about = read_json(folder / "zarr.json") if (folder / "zarr.json").exists() else None
    return (folder / ".zarray").exists() if about is None else about.get("node_type") == "array"


def _scales(folder: Path) -> Mapping[str, Any]:
    """The first image of an OME-Zarr group."""
    if (folder / "zarr.json").exists():
        about = read_json(folder / "zarr.json").get("attributes", {})
    else:
        about = read_json(folder / ".zattrs")
    found: Mapping[str, Any] = about.get("ome", about)["multiscales"][0]
    return found


def _check_2(about: Mapping[str, Any]) -> tuple[int, str]:
    """Version 2: one dtype, chunks of one size, filters and a compressor by name.

    Returns:
        Bytes of a decoded chunk, and the codec by which it is stored.
    """
    if about["zarr_format"] != 2:
        raise _RefusedError(f"zarr_format {about['zarr_format']!r:.40}")
    _check_number(about["dtype"], NUMBERS)
    _check_shape(about["shape"], about["chunks"], int(about["dtype"][-1]))
    _check_count(about["shape"], about["chunks"])
    if about.get("dimension_separator", ".") not in (".", "/"):
        raise _RefusedError("a dimension_separator that is neither . nor /")
    _check_fill(about.get("fill_value"))
    compressor = about.get("compressor")
    for codec in [*(about.get("filters") or []), *([] if compressor is None else [compressor])]:
        _check_codec(codec["id"], codec, CODECS)
    return math.prod(about["chunks"]) * int(about["dtype"][-1]), "" if compressor is None else compressor["id"]


def _check_3(about: Mapping[str, Any]) -> tuple[int, str]:
    """Version 3: a chain of codecs, shards among them. Returns what `_check_2` does, of a shard as a whole."""
    if (about["zarr_format"], about["node_type"]) != (3, "array"):
        raise _RefusedError("no array of version 3")
    if about.get("storage_transformers"):
        raise _RefusedError("storage_transformers")
    _check_number(about["data_type"], NUMBERS_3)
    grid, keys = about["chunk_grid"], about["chunk_key_encoding"]
    if grid["name"] != "regular":
        raise _RefusedError(f"a chunk_grid {grid['name']!r:.40}")
    if keys["name"] not in ("default", "v2") or keys.get("configuration", {}).get("separator", "/") not in (".", "/"):
        raise _RefusedError("a chunk_key_encoding that is not known")
    _check_fill(about.get("fill_value"))
    size = int(re.sub(r"\D", "", about["data_type"])) // 8
    chunks = grid["configuration"]["chunk_shape"]
    if (inner := _check_codecs(about["codecs"])) is None:
        _check_shape(about["shape"], chunks, size)
    else:
        _check_shape(about["shape"], chunks, 0)
        _check_shape(chunks, inner, size)
        _check_shape(chunks, [1] * len(chunks), 0)
        if math.prod(-(-outer // part) for outer, part in zip(chunks, inner, strict=True)) * 16 > LARGEST_CHUNK:
            raise _RefusedError("shards of too many chunks")
    _check_count(about["shape"], chunks if inner is None else inner)
    last = about["codecs"][-1] if about["codecs"] else ""
    return math.prod(chunks) * size, (last if isinstance(last, str) else last["name"]).removeprefix("numcodecs.")


def _check_codecs(codecs: Sequence[Any], depth: int = 0) -> Sequence[int] | None:
    """Refuse codecs that are not known; the shape of the chunks in a shard, if the array has shards."""
    inner = None
    if not isinstance(codecs, list):
        raise _RefusedError("codecs that are no list")
    for codec in codecs:
        name, settings = (codec, {}) if isinstance(codec, str) else (codec["name"], codec.get("configuration") or {})
        if name == "sharding_indexed" and depth == 0:
            inner = settings["chunk_shape"]
            for key in ("codecs", "index_codecs"):
                _check_codecs(settings.get(key, []), depth + 1)
        elif isinstance(name, str) and name.startswith("numcodecs."):
            _check_codec(name.removeprefix("numcodecs."), settings, CODECS)
        else:
            _check_codec(name, settings, CODECS_3)
    return inner


def _check_codec(name: Any, settings: Any, known: frozenset[str]) -> None:
    if not isinstance(name, str) or name not in known:
        raise _RefusedError(f"the codec {name!r:.80}, which is none of {', '.join(sorted(known))}")
    if not isinstance(settings, dict):
        raise _RefusedError(f"settings of the codec {name} that are no object of JSON")
    for key in ("dtype", "astype"):
        if settings.get(key) is not None:
            _check_number(settings[key], NUMBERS)


def _check_number(kind: Any, known: re.Pattern[str]) -> None:
    if not isinstance(kind, str) or known.fullmatch(kind) is None:
        raise _RefusedError(f"values of the kind {kind!r:.80}, which is no number")


def _check_fill(value: Any) -> None:
    if value is not None and not isinstance(value, (int, float)) and value not in ("NaN", "Infinity", "-Infinity"):
        raise _RefusedError(f"a fill_value {value!r:.40}, which is no number")


def _check_shape(shape: Any, chunks: Any, size: int) -> None:
    """Refuse axes that are none, or chunks of too many bytes of ``size`` a value."""
    for name, lengths in (("shape", shape), ("chunks", chunks)):
        if not isinstance(lengths, list) or not all(type(each) is int and 1 <= each <= LONGEST for each in lengths):
            raise _RefusedError(f"{name} {lengths!r:.80}, which is no list of numbers from 1 to {LONGEST:,}")
    if len(shape) != len(chunks) or len(shape) > MOST_AXES:
        raise _RefusedError(f"a shape of {len(shape)} axes and chunks of {len(chunks)}; there may be {MOST_AXES}")
    if math.prod(chunks) * size > LARGEST_CHUNK:
        raise _RefusedError(
            f"chunks of {math.prod(chunks) * size / 1e6:,.0f} MB; they may have {LARGEST_CHUNK / 1e6:,.0f}"
        )


def _check_count(shape: Sequence[int], chunks: Sequence[int]) -> None:
    """Refuse an array of so small chunks that reading a row of them takes no end."""
    counts = sorted(-(-length // part) for length, part in zip(shape, chunks, strict=True))
    if (beside := math.prod(counts[:-1])) > MOST_CHUNKS:
        raise _RefusedError(f"{beside:,} chunks side by side; there may be {MOST_CHUNKS:,}")


def _check_files(folder: Path, largest: int, codec: str) -> None:
    """Refuse links that lead out of an array, what is no file, and chunks that would become larger than ``largest``."""
    for entry in _entries(str(folder)):
        try:
            if entry.is_symlink():
                inside(folder, os.path.relpath(entry.path, folder))
            if not entry.is_file() and not entry.is_dir():
                regular_file(entry.path)
            if entry.is_file() and not entry.name.startswith(".z") and entry.name != "zarr.json":
                _check_stored(entry, largest, codec)
        except (ValueError, OSError) as error:
            raise _RefusedError(str(error)) from error


def _check_stored(entry: os.DirEntry[str], largest: int, codec: str) -> None:
    if entry.stat().st_size > largest + largest // 16 + OVERHEAD:
        raise _RefusedError(f"{entry.name} of {entry.stat().st_size:,} bytes for a chunk of {largest:,}")
    if codec in ("blosc", "lz4"):  # both make room for what their header says
        with regular_file(entry.path).open("rb") as file:
            header = file.read(8)
        told = int.from_bytes(header[4:8] if codec == "blosc" else header[:4], "little")
        if told > largest:
            raise _RefusedError(f"{entry.name}, which says that it becomes {told:,} bytes, for a chunk of {largest:,}")


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    left = [folder]
    while left:
        with os.scandir(left.pop()) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    left.append(entry.path)
