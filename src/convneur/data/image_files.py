"""Image files of a folder, and the files that look like images and cannot be used: those are named, never lost."""

from __future__ import annotations

import os
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from convneur.data.decode import SUFFIXES, UnreadableImageError, image_format
from convneur.data.paths import before_wildcards, matching, walk
from convneur.files import StrPath

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


def find_images(paths: StrPath | Sequence[StrPath], tell: Callable[[str], object] = lambda note: None) -> list[str]:
    """Files that ``paths`` name, in order and without repetition.

    Args:
        paths: Files, folders and globs; one or several.
        tell: Called with what to say of files in folders that look like images and are not used.

    Raises:
        FileNotFoundError: If a path names nothing, or a folder holds no images.
        ValueError: For no path, and for an address on the web.
    """
    found: dict[str, None] = {}
    unused: dict[str, None] = {}
    for path in map(str, several(paths, (str, os.PathLike), "image files, folders or globs")):
        if "://" in path:
            raise ValueError(f"{path} is on the web; download it first, then give the file")
        files, others = _expanded(path)
        if not files:
            what = "holds no images" if Path(path).is_dir() else "does not exist"
            why = f" ({unused_notes(others)[0]})" if others else ""
            raise FileNotFoundError(f"{path} {what}; give image files, folders or globs{why}")
        found |= dict.fromkeys(files)
        unused |= dict.fromkeys(others)
    for note in unused_notes([file for file in unused if file not in found]):
        tell(note)
    return list(found)


def several(given: Any, kinds: tuple[type, ...], fix: str) -> list[Any]:
    """What is given, one or several of some kinds; a ValueError for none, and for what is of no such kind.

    Args:
        given: By people.
        kinds: Of each.
        fix: What they are, in words.
    """
    one = isinstance(given, (bytes, *kinds)) and not (isinstance(given, str) and not given)
    found = [given] if one or not isinstance(given, Iterable) else list(given)
    if not found:
        raise ValueError(f"no images given; give {fix}")
    for each in found:
        if not isinstance(each, kinds):
            raise ValueError(f"{' '.join(reprlib.repr(each).split())} is no image; give {fix}")
    return found


def _expanded(path: str) -> ImageFiles:
    path = str(Path(path).expanduser())
    if Path(path).is_dir():
        return find_image_files(path)
    if Path(path).exists():
        return ImageFiles([path], [])
    folder = before_wildcards(Path(path))
    return ImageFiles([str(folder / name) for name in matching(folder, str(Path(path).relative_to(folder)))], [])
