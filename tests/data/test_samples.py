"""Every kind of file shows one picture, to whoever reads it: the whole of it, or rows."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
from PIL import features

from convneur.data.decode import UnreadableImageError, decode_image
from convneur.streaming import open_large
from tests.data.other_kinds import OTHERS
from tests.data.tiff_kinds import TIFFS
from tests.files_page import rows

SUFFIX = {"TIFF": "tif", "WebP": "webp", "JPEG2000": "jp2", ".npy": "npy"}
KINDS = [*TIFFS, *OTHERS]


def by_decoding(path):
    return np.asarray(decode_image(path)).astype(float)


def by_rows(path):
    image = open_large(path)
    image.check_channels(3)
    step = 11
    parts = [image.read((top, min(top + step, image.height)), 3) for top in range(0, image.height, step)]
    return np.concatenate(parts) * 255.0


@pytest.mark.parametrize("reader", [by_decoding, by_rows])
@pytest.mark.parametrize("kind", KINDS, ids=[": ".join(kind.row) for kind in KINDS])
def test_what_a_file_shows(kind, reader, tmp_path):
    if kind.row[0] == "HEIC":
        pytest.importorskip("pillow_heif")
    if kind.row[0] == "TIFF":
        pytest.importorskip("zarr", reason="TIFF files need zarr, which needs Python 3.11")
    if kind.row[0] == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    if kind.row[0] == ".npy" and reader is by_decoding:
        pytest.skip("arrays are read by rows")
    path = tmp_path / f"a.{SUFFIX.get(kind.row[0], kind.row[0].lower())}"
    kind.write(path)
    with warnings.catch_warnings(record=True) as words:
        warnings.simplefilter("always")
        if isinstance(kind.shown, str):
            with pytest.raises(UnreadableImageError, match=kind.shown) as told:
                reader(path)
            assert "\n" not in str(told.value)
            assert reader is by_decoding or re.search(r"a\.\w+", str(told.value))
            return
        seen = reader(path)
    assert seen.shape == kind.shown.shape
    assert np.abs(seen - kind.shown).mean() <= kind.near
    if kind.near < 1:
        assert np.abs(seen - kind.shown).max() <= 2
    if reader is by_decoding:
        assert any("left out" in str(word.message) for word in words) == (
            "unspecified" in kind.row[2] or "word" in kind.row[2]
        )


def test_the_page_says_what_happens():
    assert {row[:4] for row in rows("Images")} == {(*kind.row, kind.outcome) for kind in KINDS}
