"""Folders that commands write to: whose they are, what in them may be removed, and who is at work there.

One rule for all: a folder is written to if it is new, empty, or the command's own. What a command made stays until the
same command is given --overwrite, and then nothing goes but what the command wrote. One process writes at a time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

from convneur.files import NEW, check_folder, file_stem, new_for, remove_entry
from convneur.locks import acquire, locked, release
from convneur.notes import OURS, AlreadyDone, as_json, compare, read_note, write_note

T = TypeVar("T")
LOCK = ".convneur-lock"
MODEL = ("config.json", "model.safetensors", "README.md")


def _model(folder: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" for name in MODEL)


STEP = f"step-{'[0-9]' * 9}"
PART = f"part-{'[0-9]' * 5}"
# What is removed goes in this order: a run whose removal is cut off is no finished one, and still known as a run.
RUN = (
    *("report.html", "split.json", "metrics.json", "predictions.csv", "detections.json", "images.json.gz"),
    *_model("model"),
    *(*_model("model-best"), *_model("model-last"), f"best/{STEP}.safetensors"),
    *(f"checkpoints/{STEP}.ckpt", f"checkpoints/{STEP}.damaged", f"checkpoints/.{STEP}.ckpt.part"),
    *("logs/version_*/metrics.csv", "logs/version_*/hparams.yaml"),
    *("tensorboard/events.out.tfevents.*", "tensorboard/hparams.yaml"),
    "mlruns/",
    *("wandb/run-*/", "wandb/offline-run-*/", "wandb/latest-run", "wandb/debug*.log"),
    "run.json",
)
# What each verb writes below its folder, as patterns; a slash at the end is a whole folder. {0} is the part of the
# folder's results that is meant, such as a table. What predict and explain write is listed in their notes.
WRITES: dict[str, tuple[str, ...]] = {
    "train": RUN,
    "demo": ("metrics.json", "report.html", *_model("convneur"), *_model("local-only")),
    "eval": ("metrics.json", "report.html", "predictions.csv", "detections.json"),
    "predict": (),
    "explain": (),
    "embed": ("embed.json", "failed.jsonl", *(f"{PART}{'[0-9]' * more}.parquet" for more in range(3))),
    "stream": (
        *("features.npy", "logits.npy", "classes.npy", "stage_[0-9].npy", "preview.jpg", "stream.json"),
        ".convneur-scratch-*/",
    ),
    "ablate": (
        *("{0}.json", "{0}.md", "{0}.png", "runs/{0}-*.lock"),
        *(f"runs/{{0}}-*/{name}" for name in RUN),
    ),
    "bench": ("{0}.json", "{0}.csv", "{0}.png"),
}
BESIDE = ("predict", "explain")  # may write beside files of others, as no name that is taken is used
SHARED = ("ablate",)  # several processes may be at work, each under locks of its own


class OutputFolder:
    """A folder for what a verb makes, this process's alone while the context is open.

    It is made if it is not there, and goes again if nothing was written. Contexts of one folder may be nested.

    Args:
        out: The folder.
        verb: What writes there; see `WRITES`.
        overwrite: Whether results of other settings, or of another verb, may be removed.
        part: Of the results, where a folder has several that do not depend on each other.
        wait: Seconds to wait for another process.

    Raises:
        FileExistsError: If the folder holds a training run, results of another verb that are not to be removed, or
            files that are none of ours.
        BlockingIOError: If another process writes there.
        OSError: If it is no folder that can be written to, or links in it lead out of it.
    """

    def __init__(
        self, out: Path, verb: str, overwrite: bool = False, part: str | None = None, wait: float = 0.0
    ) -> None:
        self.path, self.verb, self.overwrite, self.part, self.wait = out, verb, overwrite, part or verb, wait
        self.named = f"--out {out}"
        self._given: set[str] = set()
        self._made_from: dict[str, Any] = {}

    def __enter__(self) -> OutputFolder:
        check_folder(self.path, self.named)
        self._refuse_others()
        with ExitStack() as stack:
            stack.enter_context(locked(self.path, LOCK, self.named, self.wait))
            self._refuse_others()  # again: another process may have been here
            if self.verb not in SHARED:
                sweep(self.path, WRITES[self.verb])
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    # What is there

    @property
    def note(self) -> Path:
        """Where it is kept what the results are made from."""
        return self.path / f"{OURS}{self.verb}"

    def check(self, made_from: Mapping[str, Any]) -> None:
        """Compare with what is there; nothing is changed yet.

        Args:
            made_from: All that decides what comes out, as JSON can hold it.

        Raises:
            AlreadyDone: If it has come out, whole.
            FileExistsError: If something else has, and is not to be removed.
        """
        self._made_from = as_json(made_from)
        there = [path for path in self._made(self.verb) if os.path.lexists(path)]
        if not there or self.overwrite:
            return
        kept = read_note(self.note)[0].get(self.part)
        if kept is None:  # of an earlier version, or somebody else's
            raise FileExistsError(
                f"{self.named} holds {there[0].relative_to(self.path)}, and nothing says what it was made from; add "
                "--overwrite to replace it, or give another --out"
            )
        gone = [name for name in kept.get("files", ()) if not os.path.lexists(self.path / name)]
        compare({**kept, "finished": kept.get("finished") and not gone}, self._made_from, self.named)

    # What is written

    def start(self, go_on: bool = False) -> None:
        """Remove what was made before, and note what `check` was told; to be called as late as may be.

        Args:
            go_on: Leave what a call with the same settings wrote that has not finished.
        """
        kept = read_note(self.note)[0].get(self.part, {})
        if go_on and not kept.get("finished") and kept.get("made_from") == self._made_from:
            return
        self.clear()
        self._keep({"made_from": self._made_from, "finished": False})

    def begin(self) -> None:
        """Note that the folder is this verb's, which keeps in files of its own what they are made from."""
        if self.part not in read_note(self.note)[0]:
            self._keep({"finished": False})

    def finish(self, told: Any = None) -> None:
        """Note that all is written.

        Args:
            told: What the same command should tell again, as JSON can hold it.
        """
        kept = read_note(self.note)[0].get(self.part, {})
        files = [str(path.relative_to(self.path)) for path in self._made(self.verb) if os.path.lexists(path)]
        self._keep({**kept, "finished": True, "told": told, "files": files})

    def free(self, stem: str, ends: Sequence[str]) -> list[Path]:
        """Paths that are not taken: ``stem``, if need be with a number behind it, and each of the ends."""
        stem = file_stem(stem)
        names, number = [stem + end for end in ends], 1
        while any(os.path.lexists(self.path / name) or name in self._given for name in names):
            number += 1
            names = [f"{stem}-{number}{end}" for end in ends]
        self._given |= set(names)
        with self.note.open("a", encoding="utf-8") as note:  # before the files, and without writing all names again
            note.writelines(json.dumps(name) + "\n" for name in names)
        return [self.path / name for name in names]

    def clear(self) -> None:
        """Remove what this verb wrote, or another one whose results are to be overwritten; and nothing else.

        Raises:
            BlockingIOError: If another process works on a part of it.
        """
        verb = self._owner() or self.verb
        note, gone = self.path / f"{OURS}{verb}", self._made(verb)
        results, names = read_note(note)
        for path in gone:
            if path.suffix == ".lock":
                release(acquire(path, self.named))
        parts = results.keys() & {self.part} if verb == self.verb else results.keys()
        if parts:  # first, so that what is left if this is cut off is not taken for whole
            write_note(note, results | {part: {**results[part], "finished": False} for part in parts}, names)
        for path in gone[:-1]:
            remove_entry(path)
        for place in _folders(self.path, verb):  # before the last file, by which the folder is known for ours
            with suppress(OSError):  # not empty: somebody else's files are kept
                place.rmdir()
        for path in gone[-1:]:
            remove_entry(path)
            for place in _between(self.path, path):
                with suppress(OSError):
                    place.rmdir()
        sweep(self.path, WRITES[verb])
        left = {name: kept for name, kept in results.items() if name not in parts}
        if left:
            write_note(note, left)
        else:
            note.unlink(missing_ok=True)
        self._given = set()

    def _keep(self, result: Mapping[str, Any]) -> None:
        results, names = read_note(self.note)
        write_note(self.note, results | {self.part: dict(result)}, names)

    # Whose it is

    def _made(self, verb: str) -> list[Path]:
        """What a verb has written: this one as the part that is meant, another one as all parts."""
        results, names = read_note(self.path / f"{OURS}{verb}")
        parts = [self.part] if verb == self.verb else [*results] or [verb]
        found = [path for part in parts for path in _written(self.path, verb, part)]
        return [*found, *(self.path / name for name in names)]

    def _strange(self, owner: str) -> list[Path]:
        """Files that another verb has not written, and this one would replace, or does not write beside."""
        made = set(self._made(owner))
        there = _written(self.path, self.verb, self.part)
        if owner in BESIDE and self.verb not in BESIDE:
            there += [self.path / name for name in _names(self.path)]
        return [path for path in there if path not in made]

    def _refuse_others(self) -> None:
        owner = self._owner()
        if owner is None:
            strange = _names(self.path)
            if strange and self.verb not in BESIDE:
                raise FileExistsError(
                    f"{self.named} is not empty, and nothing in it says that convneur filled it (it holds "
                    f"{strange[0]}); give a new or an empty folder, or clear away what an earlier version wrote"
                )
        elif owner == "train" != self.verb:
            raise FileExistsError(f"{self.named} holds a training run, which would be written over; give another --out")
        elif owner != self.verb and not self.overwrite:
            raise FileExistsError(
                f"{self.named} holds results of convneur {owner}; add --overwrite to replace them, or give another "
                "--out"
            )
        elif owner != self.verb and (theirs := self._strange(owner)):
            raise FileExistsError(
                f"{self.named} holds {theirs[0].relative_to(self.path)} beside results of convneur {owner}, which did "
                "not write it; give another --out"
            )
        for verb in {owner or self.verb, self.verb}:
            _refuse_links(self.path, verb)

    def _owner(self) -> str | None:
        """The verb whose results are there; None if there are none."""
        for verb in WRITES:
            if (self.path / f"{OURS}{verb}").is_file():
                return verb
        for verb, marker, keys in (
            ("train", "run.json", {"data", "model", "recipe"}),
            ("embed", "embed.json", {"made_from"}),
            ("ablate", f"{self.part}.json", {"settings", "runs"}),
            ("stream", "stream.json", {"image", "seconds"}),
        ):
            if keys <= _keys(self.path / marker):
                return verb
        begun = {path.suffix for path in (self.path / "runs").glob("*")}
        return "ablate" if begun == {".lock"} and _names(self.path) == ["runs"] else None


def made_once(folder: OutputFolder, made_from: Mapping[str, Any], make: Callable[[OutputFolder], T], tell: Any) -> T:
    """What ``make`` gives, or what it gave when the same was asked before, which ``tell`` gets a line on."""
    with folder:
        try:
            folder.check(made_from)
        except AlreadyDone as done:
            tell(f"convneur: {done}")
            told: T = done.told
            return told
        found = make(folder)
        folder.finish(found)
        return found


class OutputFile:
    """What `OutputFolder` is for a folder, for a file in somebody's folder; the note and the lock are beside it.

    Args:
        files: That are written together, the last of them by the name that was given.
        overwrite: Whether files that were made from something else may be replaced.

    Raises:
        FileExistsError: If one of them is there and was not written here, or was changed since.
        BlockingIOError: If another process writes them.
        OSError: If they cannot be written.
    """

    def __init__(self, files: Sequence[Path], verb: str, overwrite: bool = False) -> None:
        self.files, self.overwrite = files, overwrite
        self.folder, self.named = files[-1].parent, f"--out {files[-1]}"
        self.note = self.folder / f"{OURS}{verb}-{files[-1].name}"
        self._made_from: dict[str, Any] = {}

    def __enter__(self) -> OutputFile:
        if self.files[-1].is_dir():
            raise IsADirectoryError(f"{self.named} is a folder; give the name of a file")
        check_folder(self.folder, f"the folder of {self.named}")
        with ExitStack() as stack:
            stack.enter_context(locked(self.folder, f"{self.note.name}.lock", self.named))
            self._refuse_others()
            for left in self.folder.glob(f"{new_for(self.files[-1])}*"):  # of a process that was killed
                remove_entry(left)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def check(self, made_from: Mapping[str, Any]) -> None:
        """As `OutputFolder.check`."""
        self._made_from = as_json(made_from)
        if not self.overwrite and any(os.path.lexists(file) for file in self.files):
            compare(read_note(self.note)[0]["file"], self._made_from, self.named)

    def finish(self, told: Any = None) -> None:
        """Note what the files were made from."""
        kept = {"made_from": self._made_from, "finished": True, "told": told, "files": self._state()}
        write_note(self.note, {"file": kept})

    def _state(self) -> list[list[int]]:
        facts = [file.lstat() for file in self.files if os.path.lexists(file)]
        return [[each.st_size, each.st_mtime_ns] for each in facts]

    def _refuse_others(self) -> None:
        there = [file for file in self.files if os.path.lexists(file)]
        kept = read_note(self.note)[0].get("file", {})
        if there and (kept.get("files") != self._state()):
            raise FileExistsError(
                f"{there[0]} is there and not as convneur wrote it; remove it first, or give another --out"
            )


def sweep(folder: Path, patterns: Sequence[str]) -> None:
    """Remove what killed processes left half written; for when nobody else writes."""
    for place in sorted({"", *(pattern.format("*").rstrip("/").rpartition("/")[0] for pattern in patterns)}):
        for left in folder.glob(f"{place}/{NEW}*".lstrip("/")):
            remove_entry(left)


def _names(folder: Path) -> list[str]:
    """What is in a folder besides notes, locks and the like."""
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [name for name in there if not name.startswith(OURS)]


def _keys(path: Path) -> set[str]:
    """Keys of a JSON file; none if it is not one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return set()
    return set(found) if isinstance(found, dict) else set()


def _between(folder: Path, path: Path) -> list[Path]:
    """Folders below ``folder`` that ``path`` is in."""
    return [place for place in path.parents if folder in place.parents]


def _written(folder: Path, verb: str, part: str) -> list[Path]:
    """What a verb has written, files and whole folders."""
    found = []
    for pattern in (each.format(part) for each in WRITES[verb]):
        for path in sorted(folder.glob(pattern.rstrip("/"))):
            if pattern.endswith("/") or path.is_symlink() or not path.is_dir():
                found.append(path)
    return found


def _folders(folder: Path, verb: str) -> list[Path]:
    """Folders that a verb makes below its own, inner ones first; a call that was killed may have left them empty."""
    found: set[Path] = set()
    for pattern in (each.format("*").rstrip("/") for each in WRITES[verb]):
        while pattern := pattern.rpartition("/")[0]:
            found |= {place for place in folder.glob(pattern) if place.is_dir() and not place.is_symlink()}
    return sorted(found, reverse=True)


def _refuse_links(folder: Path, verb: str) -> None:
    """Refuse folders of a verb that are links or files, and files of it that are folders."""
    for pattern in (each.format("*") for each in WRITES[verb]):
        inner, place = [part for part in pattern.split("/")[:-1] if part], folder
        for depth in range(1, len(inner) + 1):
            for place in folder.glob("/".join(inner[:depth])):
                if place.is_symlink():
                    raise OSError(f"{place} is a link; what is written there would go elsewhere: give another --out")
                if not place.is_dir() and "*" not in inner[depth - 1]:
                    raise NotADirectoryError(f"{place} is a file where a folder has to be; give another --out")
        exact = folder / pattern
        if not pattern.endswith("/") and exact.is_dir() and not exact.is_symlink():
            raise IsADirectoryError(f"{exact} is a folder where a file has to be; give another --out")
