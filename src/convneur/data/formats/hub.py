"""Hugging Face datasets, from the hub or a local copy; programs that come with one are never run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convneur.data.formats.images import Images, LabelArray, image_bytes
from convneur.data.labels import shown_names
from convneur.data.paths import first_line, inside, read_json, read_text
from convneur.data.split import Source, Wanted, assemble, labelled
from convneur.data.split_names import Part, find_parts

CARD, LARGEST_CARD = "README.md", 2**20  # bytes
_FRONT_MATTER = re.compile(
    r"\s*---(?:\r\n|\r|\n)([\S\s]*?)(?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|$)"
)  # as huggingface_hub has it


class HubImages:
    """Rows of a Hugging Face dataset, which stays on disk; image files may be in ``folders``."""

    def __init__(self, rows: Any, image: str, labels: Sequence[int], origin: str, folders: Sequence[Path]) -> None:
        self.rows, self.image, self.origin, self.folders = rows, image, origin, list(folders)
        self.labels: LabelArray = np.array(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        """Return the encoded image of a row."""
        return image_bytes(self.rows[index][self.image], *self.folders)

    def name(self, index: int) -> str:
        """Dataset and row."""
        return f"{self.origin} row {index}"


def open_hub(name: str, wanted: Wanted, allow_remote: bool) -> Source:
    """Open a dataset by its name on the hub, or a folder.

    Args:
        name: Of the dataset, or the folder.
        wanted: What is asked of it.
        allow_remote: Let the card of a folder name files elsewhere.

    Raises:
        FileNotFoundError: If it cannot be loaded.
        ValueError: If it comes with a program, names files outside of its folder, or has no labelled images.
        ImportError: If the package datasets is missing.
    """
    try:
        import datasets
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError as error:
        raise ImportError("hf: needs the package datasets; pip install 'convneur[hf]'") from error
    path = Path(name).expanduser()
    if "://" in name or (path.exists() and not path.is_dir()):
        raise ValueError(f"hf:{name} is neither a name on the hub nor a folder; give one of them")
    if path.is_dir():
        _check_folder(path, allow_remote)
    try:
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            loaded = datasets.load_from_disk(str(path))
        else:
            loaded = datasets.load_dataset(str(path) if path.exists() else name, trust_remote_code=False)
    except Exception as error:  # no network, no such name, no access, a damaged copy
        raise FileNotFoundError(f"hf:{name} could not be loaded ({first_line(error)})") from error
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    parts = find_parts(splits, f"hf:{name}")
    if not parts:
        raise ValueError(f"hf:{name} has no split named train; it has {', '.join(splits)}")
    notes: list[str] = []
    if rest := sorted(set(splits) - set(parts.values())):
        notes.append(f"hf:{name} has splits that are no part, and not used: {shown_names(rest)}")
    # What is downloaded lies in the caches, and folders there hold links into them.
    folders = [*([path] if path.is_dir() else []), Path(datasets.config.HF_DATASETS_CACHE), Path(HF_HUB_CACHE)]

    def read(part: Part, classes: list[str] | None) -> tuple[Images, list[str]]:
        return _images(splits[parts[part]], name, parts[part], classes, folders, notes)

    there: dict[Part, str] = {part: f"split {split}" for part, split in parts.items()}
    return assemble(f"hf:{name}", there, read, wanted, notes)


def _images(
    rows: Any, origin: str, split: str, classes: list[str] | None, folders: Sequence[Path], notes: list[str]
) -> tuple[Images, list[str]]:
    import datasets

    features = rows.features
    image = next((n for n in features if isinstance(features[n], datasets.Image)), None)
    label = next((n for n in ("label", "labels", "fine_label", "class") if n in features), None)
    if image is None or label is None:
        raise ValueError(f"hf:{origin} needs an image and a label column; it has {', '.join(features)}")
    if isinstance(features[label], datasets.ClassLabel):
        classes = features[label].names
    labels = rows[label][:]
    undecoded = rows.cast_column(image, datasets.Image(decode=False))
    images = HubImages(undecoded, image, [0] * len(labels), f"hf:{origin}", folders)
    return labelled(images, labels, classes, f"hf:{origin} {split}", notes)


def _check_folder(folder: Path, allow_remote: bool) -> None:
    """Refuse a program, which some releases of the package would run, and files that are not in the folder."""
    if script := next(iter(sorted(folder.glob("*.py"))), None):
        raise ValueError(
            f"{script} is a program, and none that comes with data is run; write the data as parquet files"
        )
    for state in (folder / "state.json", *sorted(folder.glob("*/state.json"))):
        if state.exists():
            _check_paths(state, state.parent, _found(read_json(state), "filename"))
    for card in (folder / CARD, folder / ".huggingface.yaml"):
        if card.exists() and not allow_remote:
            _check_paths(card, folder, _found(_front_matter(card), "data_files", "data_dir"))


def _check_paths(file: Path, folder: Path, paths: Iterator[str]) -> None:
    for path in paths:
        try:
            if "://" in path or "::" in path:
                raise ValueError(f"{path!r} is elsewhere; --allow-remote reads such files")
            inside(folder, path)
        except ValueError as error:
            raise ValueError(f"{file} names data that is not in its folder: {error}") from error


def _front_matter(card: Path) -> Any:
    """What the YAML at the beginning of a card, or alone in a file, says of the data.

    A card is taken apart as by the package that reads it afterwards, or what is read would not be what was checked.
    """
    text = read_text(card, LARGEST_CARD)
    if card.name == CARD:
        found = _FRONT_MATTER.match(text)
        text = found[1] if found else ""
    from convneur.data.yaml_text import parse_yaml  # which needs a package that comes with datasets

    return parse_yaml(text, card)


def _found(content: Any, *keys: str) -> Iterator[str]:
    """Texts under these keys, however they are nested."""
    seen: set[tuple[int, bool]] = set()  # what is in several places is looked at once
    left: list[tuple[Any, bool]] = [(content, False)]
    while left:
        value, wanted = left.pop()
        if isinstance(value, str) and wanted:
            yield value
        if not isinstance(value, (dict, list)) or (id(value), wanted) in seen:
            continue
        seen.add((id(value), wanted))
        if isinstance(value, dict):
            left += [(each, wanted or key in keys) for key, each in value.items()]
        else:
            left += [(each, wanted) for each in value]
