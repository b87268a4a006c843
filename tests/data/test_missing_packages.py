"""What a small installation cannot read is named with the line that installs what it takes."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from convneur.data import tiff_files
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


@pytest.mark.parametrize(
    ("python", "message"),
    [
        ((3, 10), "a TIFF needs more packages; use Python 3.11 or later, which zarr 3 needs, and run: "),
        ((3, 11), "a TIFF needs more packages; run: "),
    ],
)
@pytest.mark.parametrize("installed", [None, SimpleNamespace(__version__="2.18.3")])
def test_without_zarr_3_it_is_said_what_python_it_needs(python, message, installed, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", installed)
    monkeypatch.setattr(tiff_files, "sys", SimpleNamespace(version_info=python))
    with pytest.raises(ImportError, match=re.escape(message + "pip install 'convneur[large]'")):
        tiff_files.import_zarr("a TIFF")


def test_heic_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UnreadableImageError, match=r"run: pip install 'convneur\[heif\]'$"):
        decode_image(HEIC)


def test_heic_and_avif_are_looked_for_whatever_is_installed():
    assert {".heic", ".heif", ".avif"} <= SUFFIXES
