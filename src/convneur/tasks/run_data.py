"""What a model learned from, where the run that made it says so: that is never what it is judged by."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from convneur.data.contents import FILE, Contents, is_same_place, not_learned, pick, read_contents, write_contents
from convneur.data.shards import Shards
from convneur.files import StrPath
from convneur.json_files import read_json
from convneur.models.hub import CONFIG
from convneur.models.metadata import number, whole, within
from convneur.training.run_folder import names_hash


@dataclass(frozen=True)
class RunData:
    """Of the run that a model is from.

    Attributes:
        settings: Of the run; empty if they are not known, as of a model that was saved elsewhere.
        contents: Its images; None if they are not known, as of runs of earlier versions.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    contents: Contents | None = None

    def share(self, data: str, val_share: float | None, seed: int | None) -> tuple[float | None, int]:
        """Share and seed to open data with that has no held-out images; a share of None stands for all.

        What a run of an earlier version held out of its own data is drawn again.
        """
        own = self.contents is None and bool(self.settings) and is_same_place(str(self.settings.get("data")), data)
        settings = self.settings if own else {}
        if val_share is None and (own or seed is not None):
            val_share = settings.get("val_share", 0.2)
        return val_share, settings.get("seed", 0) if seed is None else seed

    def not_learned(self, source: Any, data: str, console: Any) -> Any:
        """A source without what the model learned from among the images to judge by; says how many those are.

        Raises:
            ValueError: If nothing is left, or the images are not those that a run of an earlier version held out.
        """
        if self.contents is None and not self.settings:
            console.print(
                "nothing says what the model learned from (exported files never do); what it has seen is not left out"
            )
            return source
        if self.contents is None:
            self._check_names(source.val, data)
            return source
        kept, count = not_learned(source.val, data, self.contents), len(source.val)
        if isinstance(source.val, Shards):
            if len(kept) < len(source.val.urls):
                raise ValueError(
                    f"the model learned from shards that it would be judged by, of --data {data}; give others"
                )
            return source
        if not kept:
            raise ValueError(f"the model learned from all {count:,} images of --data {data}; give images new to it")
        if len(kept) == count:
            return source
        console.print(
            f"{len(kept):,} of {count:,} images are judged by; the model learned from the others", style="yellow"
        )
        return replace(source, val=pick(source.val, kept), held_out="what the model did not learn from")

    def _check_names(self, judged: Any, data: str) -> None:
        """Refuse images of the data of a run of an earlier version that are not those it held out."""
        names = (self.settings.get("images") or {}).get("val_names")
        if self.settings.get("data") == data and names is not None and names != names_hash(judged):
            raise ValueError(
                f"the model's run held out other images of --data {data} than these, and does not say which it learned "
                "from; give images new to it, or --part test if it was judged by those"
            )


def run_data_of(model: StrPath) -> RunData:
    """What is known of the run of a model: the run is in its folder or the one above, or `keep_contents` was called.

    Raises:
        ValueError: If what the run kept is damaged.
    """
    path = Path(os.path.realpath(Path(str(model).removeprefix("local-dir:")).expanduser()))
    if not path.exists():  # a name of timm or of the hub
        return RunData()
    inside = path / "model"
    own = path.parent if path.is_file() else inside if (inside / CONFIG).is_file() else path
    for folder in (own, own.parent):
        if (folder / "run.json").is_file():
            settings = read_json(folder / "run.json", "give --val-share and --seed, and the folder of the model alone")
            with within(str(folder / "run.json")):
                whole(settings.get("seed", 0), "seed", 0, 1 << 62)
                number(settings.get("val_share", 0.2), "val_share", 0, 1)
            return RunData(settings, read_contents(folder))
        if folder == own and (contents := read_contents(own)) is not None:
            return RunData(contents=contents)
    return RunData()


def keep_contents(folder: Path, contents: Contents | None) -> None:
    """Write what a model learned from beside it, where there is no run; nothing if it is not known."""
    if contents is None:
        (folder / FILE).unlink(missing_ok=True)  # of a model that was there before
    else:
        write_contents(folder, contents)
