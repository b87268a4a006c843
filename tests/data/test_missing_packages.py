"""What a small installation cannot read is named with the line that installs what it takes."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from convneur.data.decode import SUFFIXES, UnreadableImageError, decode_image
from tests.data.tiff_kinds import TIFFS

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


@pytest.mark.parametrize("kind", TIFFS, ids=[": ".join(kind.row) for kind in TIFFS])
def test_tiffs_without_tifffile_are_the_same_or_refused(kind, tmp_path, monkeypatch):
    kind.write(tmp_path / "a.tif")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    told = ""
    try:
        seen = np.asarray(decode_image(tmp_path / "a.tif")).astype(float)
    except UnreadableImageError as error:
        told = str(error)
    if isinstance(kind.shown, str):
        assert told
    else:
        assert told.endswith("run: pip install 'convneur[large]'") or np.abs(seen - kind.shown).mean() <= kind.near


def test_heic_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UnreadableImageError, match=r"run: pip install 'convneur\[heif\]'$"):
        decode_image(HEIC)


def test_heic_and_avif_are_looked_for_whatever_is_installed():
    assert {".heic", ".heif", ".avif"} <= SUFFIXES
