"""Labelled images wherever people keep them: one argument, whatever the kind.

| `--data` | what |
|---|---|
| a folder | class folders, with or without ``train``, ``val`` and ``test`` above them |
| a parquet file, or a folder of them | columns ``image`` (bytes) and ``label`` |
| a CSV file | columns ``filename``, ``image`` or ``id``, and ``label``; see `convneur.data.formats.csv_lists` |
| ``hf:NAME`` or ``hf:FOLDER`` | a Hugging Face dataset, from the hub or a local copy |
| ``wds:FOLDER`` | WebDataset shards, see `convneur.data.formats.shards` |
| ``digits`` | scikit-learn's handwritten digits, which need no files |
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from convneur.data.formats.csv_lists import open_label_list
from convneur.data.formats.folders import open_class_folders
from convneur.data.formats.hub import open_hub
from convneur.data.formats.parquet import open_parquet
from convneur.data.formats.shards import open_shards
from convneur.data.other_tasks import NO_CLASSES, refuse_other_tasks, tells_other_tasks
from convneur.data.paths import is_clutter
from convneur.data.split import Source, Wanted
from convneur.data.split_names import Judged, group_files
from convneur.files import StrPath

__all__ = ["Source", "open_source"]


@tells_other_tasks("classification")
def open_source(
    spec: StrPath,
    val_share: float | None = 0.2,
    seed: int = 0,
    allow_remote: bool = False,
    part: Judged = "val",
    learns: bool = True,
) -> Source:
    """Find the images that ``spec`` names; see the top of this file.

    What is called validation is judged by. What is called test is left alone unless ``part`` asks for it; where there
    is nothing to validate by, a share of the training images is held out.

    Args:
        spec: What people give as ``--data``.
        val_share: Share to hold out where the source has no validation images; stratified by class. None to judge by
            all of them, where nothing is learned.
        seed: Of that split.
        allow_remote: Read what a description of data names elsewhere: addresses on the web, and ``pipe:``, which runs
            a command of the shell. Only for descriptions that are trusted as programs are.
        part: To judge by.
        learns: Whether something is learned; where nothing is, data needs no images to train on.

    Raises:
        FileNotFoundError: If there is nothing at ``spec``.
        ValueError: If there are no images, no such part, or two folders or files for a part; and, where something is
            learned, if there are fewer than two classes, or one without images.
        ImportError: If the kind needs a package that is not installed.
    """
    spec = os.fspath(spec)
    learns = learns and val_share is not None
    source = _open(spec, Wanted(val_share, seed, part, learns), allow_remote)
    labels = getattr(source.train, "labels", None)  # shards are looked through when they are opened
    if labels is not None and learns and source.train is not source.val and len(np.unique(labels)) < 2:
        raise ValueError(
            f"all {len(labels):,} training images of {spec} are of the class {source.classes[int(labels[0])]!r}; a "
            "classifier needs images of at least two"
        )
    return source


def _open(spec: str, wanted: Wanted, allow_remote: bool) -> Source:
    if spec == "digits":
        from convneur.data.digits import open_digits  # needs scikit-learn

        return open_digits(wanted.part)
    if spec.startswith("hf:"):
        return open_hub(spec.removeprefix("hf:"), wanted, allow_remote)
    if spec.startswith("wds:"):
        return open_shards(spec.removeprefix("wds:"), wanted, allow_remote)
    root = Path(spec).expanduser()
    if not root.exists():
        raise FileNotFoundError(
            f"--data {spec} does not exist; give a folder of class folders, or one of parquet files"
        )
    if root.is_file() and root.suffix.lower() == ".csv":
        return open_label_list(root, wanted)
    if root.is_file() and root.suffix.lower() != ".parquet":
        raise ValueError(f"--data {spec} is a {root.suffix or 'plain'} file; give a folder, a .csv or a .parquet file")
    if root.is_file():
        return open_parquet(root.parent, {"train": [root]}, [], wanted)
    files = [path for path in root.iterdir() if path.suffix.lower() == ".parquet" and not is_clutter(path.name)]
    if files:
        return open_parquet(root, *group_files(files, root), wanted)
    source = open_class_folders(root, wanted)
    if {name.lower() for name in source.classes} <= NO_CLASSES:
        refuse_other_tasks("classification", spec)
    return source
