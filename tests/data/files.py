"""Image files of every sort, made on the spot."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

RED, BLUE = (200, 30, 60), (30, 60, 200)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(colour=RED, size=(24, 16)) -> Image.Image:
    return Image.new("RGB", size, colour)


def truncated_jpeg() -> bytes:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    whole = encoded(noise, "JPEG")
    return whole[: len(whole) // 2]


def bomb() -> bytes:
    """A PNG that says it is 30,000 x 30,000 px."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def rotated_jpeg() -> bytes:
    """A camera held upright: the file is 24 x 16 px with blue on its left, and is to be turned by a quarter."""
    image = plain()
    image.paste(BLUE, (0, 0, 8, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it
    return encoded(image, "JPEG", quality=95, exif=exif)


def sixteen_bit_png(value: int = 32768) -> bytes:
    return encoded(Image.fromarray(np.full((16, 24), value, dtype=np.uint16)), "PNG")


def transparent_png() -> bytes:
    """Left half transparent (over a red that nobody sees), right half solid blue."""
    image = Image.new("RGBA", (24, 16), (*RED, 0))
    image.paste((*BLUE, 255), (12, 0, 24, 16))
    return encoded(image, "PNG")


UNREADABLE = {
    "truncated.jpg": truncated_jpeg,
    "text.png": lambda: b"This is no image, whatever its name says.\n",
    "empty.jpg": lambda: b"",
    "bomb.png": bomb,
}
READABLE = {
    "cmyk.jpg": lambda: encoded(plain().convert("CMYK"), "JPEG", quality=95),
    "sixteen.png": sixteen_bit_png,
    "transparent.png": transparent_png,
    "rotated.jpg": rotated_jpeg,
}


def odd_folder(root: Path, good: int = 12) -> Path:
    """Two classes with ``good`` plain images each, and every odd file in the first."""
    random = np.random.default_rng(0)
    for label, colour in (("red", RED), ("blue", BLUE)):
        (root / label).mkdir(parents=True)
        for i in range(good):
            noise = random.integers(-20, 20, (32, 32, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / label / f"{i}.png")
    for name, make in {**UNREADABLE, **READABLE}.items():
        (root / "red" / name).write_bytes(make())
    return root
