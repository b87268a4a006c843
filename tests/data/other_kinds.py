"""Kinds of other images and of arrays."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from tests.data.kinds import (
    ALPHA,
    AS_GREY,
    GREY,
    GREY_OVER_WHITE,
    HEIGHT,
    NIR,
    OVER_WHITE,
    RGB,
    WIDTH,
    Kind,
    X,
    deep_png,
    pillow,
    png,
    turned,
    whole,
)

CMYK = np.dstack([255 - RGB, np.zeros_like(NIR)])
FEW = np.where(X < 32, 3, 0).astype(np.uint8)
FEW_SHOWN = np.repeat(np.where(X < 32, 255, 0)[..., None], 3, -1)
NOTHING = np.full(RGB.shape, 255)
CLEAR = np.where((RGB[0, 0] == RGB).all(-1, keepdims=True), 255, RGB)
EXIF = Image.Exif()
EXIF[0x0112] = 6


def image(pixels, mode=None):
    return (
        Image.fromarray(np.ascontiguousarray(pixels), mode) if mode else Image.fromarray(np.ascontiguousarray(pixels))
    )


def heic(field, value, picture, shown, near=4, **options):
    def write(path):
        import pillow_heif

        pillow_heif.from_pillow(picture).save(path, quality=95, **options)

    return Kind(("HEIC", field, value), write, shown, near)


def npy(field, value, array, shown, near=0.6):
    return Kind((".npy", field, value), lambda path: np.save(path, array), shown, near)


def pnm(kind, pixels, largest=255):
    return f"{kind}\n{WIDTH} {HEIGHT}\n{largest}\n".encode() + pixels.tobytes()


def without_cdef(pixels):
    """A JPEG 2000 of four components of which nothing is said."""
    buffer = io.BytesIO()
    image(pixels).save(buffer, "JPEG2000")
    return buffer.getvalue().replace(b"cdef", b"cdxx")


def inverted(content):
    return content.replace(b"Adobe", b"Adobx")


PALETTE = image(RGB).quantize(256)
CLEAR_PALETTE = image(np.where(ALPHA == 64, 0, 1).astype(np.uint8), "P")
CLEAR_PALETTE.putpalette([0, 0, 0, 200, 30, 60])
OVER_PALETTE = np.where(ALPHA[..., None] == 64, 255, np.array([200, 30, 60]))
RGBA, LA = np.dstack([RGB, ALPHA]), np.dstack([GREY, ALPHA])
FLOATS = (RGB / 255).astype(np.float32)

OTHERS = [
    pillow("PNG", "colours", "RGB", image(RGB), RGB),
    pillow("PNG", "colours", "grey", image(GREY), AS_GREY),
    pillow("PNG", "colours", "palette", PALETTE, np.asarray(PALETTE.convert("RGB"))),
    pillow("PNG", "numbers", "16 bits, grey", image(GREY.astype(np.uint16) * 257), AS_GREY),
    whole("PNG", "numbers", "16 bits, RGB", deep_png(RGB.astype(np.uint16) * 257), RGB),
    pillow("PNG", "numbers", "1 bit", image(GREY > 127), np.where(AS_GREY > 127, 255, 0)),
    pillow("PNG", "transparency", "RGB", image(RGBA), OVER_WHITE),
    pillow("PNG", "transparency", "grey", Image.merge("LA", [image(GREY), image(ALPHA)]), GREY_OVER_WHITE),
    pillow("PNG", "transparency", "of a colour of the palette", CLEAR_PALETTE, OVER_PALETTE, transparency=0),
    pillow(
        "PNG", "transparency", "of a colour", image(RGB), CLEAR, transparency=tuple(int(each) for each in RGB[0, 0])
    ),
    whole(
        "PNG",
        "transparency",
        "of a grey of 2 bits",
        png(2, 0, [np.packbits(np.repeat(FEW[0] > 0, 2)).tobytes()] * HEIGHT, b"\0\3"),
        np.where(FEW_SHOWN, 255, 0),
    ),
    whole(
        "PNG",
        "transparency",
        "of black of 2 bits",
        png(2, 0, [np.packbits(np.repeat(FEW[0] > 0, 2)).tobytes()] * HEIGHT, b"\0\0"),
        NOTHING,
    ),
    whole(
        "PNG", "transparency", "of a grey of 16 bits", png(16, 0, [b"\x10\x00" * WIDTH] * HEIGHT, b"\x10\x00"), NOTHING
    ),
    whole(
        "PNG",
        "transparency",
        "of a colour of 16 bits",
        png(16, 2, [b"\x10\x01" * 3 * WIDTH] * HEIGHT, b"\x10\x01" * 3),
        NOTHING,
    ),
    pillow("JPEG", "colours", "RGB", image(RGB), RGB, 4, quality=95),
    pillow("JPEG", "colours", "grey", image(GREY), AS_GREY, 2, quality=95),
    pillow(
        "JPEG",
        "colours",
        "CMYK as Adobe stores it",
        Image.frombytes("CMYK", (WIDTH, HEIGHT), CMYK.tobytes()),
        RGB,
        4,
        quality=95,
    ),
    pillow("JPEG", "orientation", "6", image(turned(6)), RGB, 4, quality=95, exif=EXIF),
    pillow("GIF", "transparency", "of a colour of the palette", CLEAR_PALETTE, OVER_PALETTE, transparency=0),
    pillow(
        "GIF",
        "pages",
        "animation: the first",
        CLEAR_PALETTE,
        OVER_PALETTE * 0 + np.where(ALPHA[..., None] == 64, 0, np.array([200, 30, 60])),
        save_all=True,
        append_images=[PALETTE],
    ),
    pillow("WebP", "colours", "RGB", image(RGB), RGB, lossless=True),
    pillow("WebP", "transparency", "RGB", image(RGBA), OVER_WHITE, 1.0, lossless=True),
    pillow("AVIF", "colours", "RGB", image(RGB), RGB, 4, quality=95),
    pillow("AVIF", "transparency", "RGB", image(RGBA), OVER_WHITE, 4, quality=95),
    pillow("BMP", "colours", "RGB", image(RGB), RGB),
    pillow("BMP", "colours", "palette", PALETTE, np.asarray(PALETTE.convert("RGB"))),
    whole("PPM", "colours", "RGB", pnm("P6", RGB), RGB),
    whole("PPM", "numbers", "16 bits, grey", pnm("P5", (GREY.astype(">u2") * 257).astype(">u2"), 65535), AS_GREY),
    whole("PPM", "numbers", "10 bits, grey", pnm("P5", (GREY.astype(np.uint16) * 4).astype(">u2"), 1020), AS_GREY),
    whole("PPM", "numbers", "floats, 0 to 1", pnm("Pf", (GREY[::-1] / 255).astype("<f4"), -1.0), AS_GREY),
    whole(
        "PPM", "numbers", "floats, up to 1,000", pnm("Pf", (GREY[::-1] * 4.0).astype("<f4"), -1.0), "white is none of"
    ),
    whole("PPM", "missing pixels", "NaN", pnm("Pf", np.full_like(GREY, np.nan, "<f4"), -1.0), r"missing \(nan\)"),
    pillow("JPEG2000", "colours", "RGB", image(RGB), RGB, 1),
    pillow("JPEG2000", "transparency", "declared", image(RGBA), OVER_WHITE, 1),
    whole("JPEG2000", "bands", "RGB and one without a word", without_cdef(RGBA), RGB, 1),
    pillow("JPEG2000", "numbers", "16 bits, grey", image(GREY.astype(np.uint16) * 257), AS_GREY),
    heic("colours", "RGB", image(RGB), RGB),
    heic("transparency", "RGB", image(RGBA), OVER_WHITE),
    heic("orientation", "6", image(turned(6)), RGB, exif=EXIF.tobytes()),
    npy("colours", "(H, W)", GREY, AS_GREY),
    npy("colours", "(H, W, 3)", RGB, RGB),
    npy("colours", "(3, H, W)", np.moveaxis(np.tile(RGB, (1, 2, 1)), 2, 0), np.tile(RGB, (1, 2, 1))),
    npy("bands", "(H, W, 2)", LA, "has 2 channels.*nothing says that they are colours"),
    npy("bands", "(H, W, 4)", RGBA, "has 4 channels.*nothing says that they are colours"),
    npy("numbers", "16 bits", RGB.astype(np.uint16) * 257, RGB * 1),
    npy("numbers", "integers of 64 bits, up to 255", RGB.astype(np.int64), RGB * 1),
    npy("numbers", "integers, below 0", RGB.astype(np.int64) - 9, "go from -9 to"),
    npy("numbers", "integers, 0 and 1", (RGB > 127).astype(np.int64), "go from 0 to 1,"),
    npy("numbers", "floats, 0 to 1", FLOATS, RGB * 1),
    npy("numbers", "floats, 0 to 255", RGB.astype(np.float32), RGB * 1),
    npy("numbers", "floats, below 0", FLOATS - 1, "go from -1 to"),
    npy("numbers", "truth values", GREY > 127, "numbers of the kind bool"),
    npy("missing pixels", "NaN", np.where(RGB == 0, np.nan, FLOATS), r"missing \(nan\)"),
]
