"""Image files of a folder, and the files that look like images and cannot be used: those are named, never lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from convneur.data.decode import SUFFIXES, UnreadableImageError, image_format
from convneur.data.paths import walk

# Endings of files that hold pictures; those of `SUFFIXES` are used.
PICTURES = frozenset(
    """
    .3fr .ai .apng .arw .avif .avifs .bmp .bpg .cr2 .cr3 .crw .dcm .dcr .dds .dib .djvu .dng .emf .eps .erf .exr .fit
    .fits .flif .gif .hdr .heic .heics .heif .heifs .hif .icns .ico .iiq .j2c .j2k .jfi .jfif .jif .jp2 .jpc .jpe
    .jpeg .jpf .jpg .jpm .jpx .jxl .jxr .kdc .mef .mos .mrw .nef .nrw .orf .pbm .pcx .pef .pfm .pgm .pic .png .pnm
    .ppm .psb .psd .qoi .raf .raw .rw2 .rwl .sgi .sr2 .srf .srw .svg .svgz .tga .tif .tiff .wdp .webp .wmf .x3f .xbm
    .xcf .xpm
    """.split()
)
HEIF = {".heic", ".heif", ".hif"}


class ImageFiles(NamedTuple):
    """Paths of image files, and of those that look like images and are not used; both by name."""

    files: list[str]
    unused: list[str]


def find_image_files(folder: Path | str) -> ImageFiles:
    """Look through a folder and the folders in it; links are followed, each folder once."""
    return sort_files(walk(folder))


def sort_files(paths: Iterable[Path]) -> ImageFiles:
    """Which of some files are used as images, and which look like images and are not."""
    found = ImageFiles([], [])
    for path in paths:
        if path.suffix.lower() in SUFFIXES:
            found.files.append(str(path))
        elif looks_like_image(path):
            found.unused.append(str(path))
    return found


def looks_like_image(path: Path) -> bool:
    """Whether a file has the ending of pictures, or no ending and the beginning of one."""
    if path.suffix:
        return path.suffix.lower() in PICTURES
    try:
        return bool(image_format(path))
    except (UnreadableImageError, OSError):
        return False


def unused_notes(unused: Sequence[str]) -> list[str]:
    """What to tell of files that look like images and are not used: how many of which kind, and the first."""
    if not unused:
        return []
    kinds = Counter(Path(name).suffix.lower() or "without an ending" for name in unused)
    told = ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))
    fix = "; .heic files can be read with pip install 'convneur[heif]'" if HEIF & kinds.keys() else ""
    what = "files look like images" if len(unused) > 1 else "file looks like an image"
    was = "were" if len(unused) > 1 else "was"
    return [
        f"{len(unused):,} {what} of a kind that is not read and {was} left out ({told}); the first: {unused[0]}{fix}"
    ]
