"""One picture in the kinds of files that people have, and what each of them must be to every reader."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

HEIGHT, WIDTH = 48, 64
Y, X = np.mgrid[:HEIGHT, :WIDTH]
RGB = np.stack([X * 4, Y * 5, 255 - X * 3], -1).astype(np.uint8)
RGB[10:20, 20:50] = (230, 40, 40)
RGB[-1, -1] = 255
GREY = np.asarray(Image.fromarray(RGB).convert("L"))
ALPHA = np.where(X < 32, 64, 255).astype(np.uint8)
OVER_WHITE = RGB * (ALPHA[..., None] / 255) + 255.0 - ALPHA[..., None]
GREY_OVER_WHITE = np.repeat((GREY * (ALPHA / 255) + 255.0 - ALPHA)[..., None], 3, -1)
AS_GREY = np.repeat(GREY[..., None], 3, -1)
NIR = ((X + Y) * 2).astype(np.uint8)
PREMULTIPLIED = np.dstack([(RGB * (ALPHA[..., None] / 255)).round().astype(np.uint8), ALPHA])
DEEP = RGB.astype(np.uint16) * 257
SOME = np.where((X < 8) & (Y < 8), -9999, GREY / 255).astype(np.float32)


@dataclass(frozen=True)
class Kind:
    """A file.

    Attributes:
        row: Format, field and value, as in docs/files.md.
        write: Writes it to a path.
        shown: What it shows, (H, W, 3); or what the refusal says.
        near: Levels of 255 by which a reader may differ, on average.
    """

    row: tuple[str, str, str]
    write: Callable[[Path], Any]
    shown: Any
    near: float = 0.6

    @property
    def outcome(self) -> str:
        return "refused" if isinstance(self.shown, str) else "converted" if self.shown is not RGB else "accepted"


def tiff(field: str, value: str, pixels: np.ndarray, shown: Any, near: float = 0.6, **options: Any) -> Kind:
    options.setdefault("photometric", "rgb")
    return Kind(("TIFF", field, value), lambda path: tifffile.imwrite(path, pixels, **options), shown, near)


def pillow(
    format: str, field: str, value: str, image: Image.Image, shown: Any, near: float = 0.6, **options: Any
) -> Kind:
    return Kind((format, field, value), lambda path: image.save(path, format, **options), shown, near)


def whole(format: str, field: str, value: str, content: bytes, shown: Any, near: float = 0.6) -> Kind:
    return Kind((format, field, value), lambda path: path.write_bytes(content), shown, near)


def png(depth: int, kind: int, rows: list[bytes], clear: bytes) -> bytes:
    """With a value that is transparent."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, kind, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(name, content)
        for name, content in ((b"IHDR", head), (b"tRNS", clear), (b"IDAT", data), (b"IEND", b""))
        if content or name == b"IEND"
    )


def deep_png(pixels: np.ndarray) -> bytes:
    """RGB of 16 bits, which Pillow does not write."""
    return png(16, 2, [row.astype(">u2").tobytes() for row in pixels], b"")


def turned(orientation: int) -> np.ndarray:
    """What is stored of an upright picture that is to be turned so."""
    turn = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(turn[orientation](RGB))


def no_data(value: str) -> list[tuple[Any, ...]]:
    return [(42113, "s", 0, value, True)]


def with_tag(pixels: np.ndarray, code: int, value: int, **options: Any) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        tifffile.imwrite(path, pixels, metadata=None, **options)
        with tifffile.TiffFile(path, mode="r+") as file:
            file.pages[0].tags[code].overwrite(value)

    return write


def without_tag(path: Path, code: int) -> None:
    """RGB and a fourth sample of which nothing is said."""
    tifffile.imwrite(path, np.dstack([RGB, NIR]), photometric="rgb", extrasamples=["unspecified"], metadata=None)
    with tifffile.TiffFile(path) as file:
        tag = file.pages[0].tags[code]
    content = bytearray(path.read_bytes())
    content[tag.offset : tag.offset + 2] = (40_000).to_bytes(2, "little")  # a tag of nobody
    path.write_bytes(content)


def packed(path: Path, bits: int, values: np.ndarray) -> None:
    """Grey of so many bits a sample."""
    places = np.arange(bits - 1, -1, -1)
    stored = np.packbits((values[..., None].astype(np.int64) >> places & 1).astype(np.uint8).reshape(HEIGHT, -1), 1)
    tifffile.imwrite(path, stored, photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as file:
        for code, value in ((256, WIDTH), (258, bits)):
            file.pages[0].tags[code].overwrite(value)


def lab(photometric: str) -> Kind:
    values = np.frombuffer(Image.fromarray(RGB).convert("LAB").tobytes("raw", "LAB"), np.uint8).reshape(RGB.shape)
    seen = np.asarray(Image.fromarray(RGB).convert("LAB").convert("RGB"))
    if photometric == "icclab":
        values = values ^ np.array([0, 128, 128], np.uint8)
    return tiff("colours", f"Lab ({photometric})", values, seen, photometric=photometric)
