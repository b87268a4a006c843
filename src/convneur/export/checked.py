"""A model exported, checked on photographs and timed, by one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import nn

from convneur.bench import inference_step, times_in_turn
from convneur.bench.throughput import spread
from convneur.data.decode import decode_image
from convneur.data.image_files import find_images
from convneur.data.photos import SAMPLES, sample_image
from convneur.data.transforms import Preprocessing
from convneur.export import check as checks
from convneur.export.export_metadata import ExportMetadata
from convneur.export.formats import FORMATS, FormatName, export_model, format_of
from convneur.export.runtime import Runtime
from convneur.export.untrained import untrained
from convneur.files import StrPath
from convneur.models import load_model
from convneur.models.image_sizes import require_size
from convneur.notes import files_hash, model_identity
from convneur.outputs import OutputFile
from convneur.printing import Console, Progress, Table, box, status
from convneur.python_calls import python_call
from convneur.reports.page import versions

PHOTOS = 4  # at most, that a file is checked with


@dataclass(frozen=True)
class ExportResult:
    """A file that answers as the model does.

    Attributes:
        path: Of the file.
        facts: Sizes, differences and times, and how they came about, as JSON can hold them.
        carries: What the file says of itself.
        is_trained: Whether the model has trained weights.
    """

    path: Path
    facts: dict[str, Any]
    carries: ExportMetadata
    is_trained: bool

    def table(self) -> Table:
        """Differences and times, as a terminal shows them."""
        rows, format = self.facts["rows"], self.facts["format"]
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        timed = ("eager ms", "quartiles", f"{format} ms", "quartiles") if "milliseconds" in rows[0] else ()
        for heading in ("px", "batch", "difference", *timed):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in rows:
            height, width = row["size"]
            times = [
                text
                for middle, low, high in row.get("milliseconds", {}).values()
                for text in (f"{middle:.1f}", f"{low:.1f}-{high:.1f}")
            ]
            table.add_row(f"{height} x {width}", str(row["batch"]), f"{row['difference']:.1e}", *times)
        return table

    def line(self) -> str:
        """The file, its size, and what it carries."""
        labels, to = self.carries.labels, Preprocessing.of(dict(self.carries.config))
        known = f"{len(labels)} labels" if labels else "no labels"
        size = "x".join(map(str, to.input_size[1:]))
        carries = f"carries {known} and its preprocessing ({size} px, mean {to.mean}, std {to.std})"
        return f"{self.path}   {self.facts['bytes'] / 1e6:.1f} MB   {carries}"


class Exportable(NamedTuple):
    """A model in eval mode, what its file should say of itself, and whether it has trained weights."""

    model: nn.Module
    metadata: ExportMetadata
    is_trained: bool = True


def classifier_named(name: str) -> Exportable:
    """A classifier by its name or folder; a name of ours without weights gives one with random ones.

    Raises:
        FileNotFoundError: If there is no such model.
        OSError: If it cannot be fetched.
        ValueError: If it cannot be loaded.
    """
    new = name.startswith("convneur_m") and not Path(name).exists()
    model, config, labels = untrained(name) if new else load_model(name)
    return Exportable(model, ExportMetadata(config, labels), not new)


@python_call()
def export_checked(
    model: StrPath,
    format: FormatName = "onnx",
    out: StrPath | None = None,
    images: Sequence[str] = (),
    image_size: int | None = None,
    dynamic: bool = True,
    keep_ops: bool = False,
    rounds: int = 15,
    overwrite: bool = False,
    progress: bool = True,
    command: str = "export_checked",
    open_named: Callable[[str], Exportable] = classifier_named,
) -> ExportResult:
    """Write a model for another runtime, with its labels and preprocessing; check it on photographs, and time it.

    The file is loaded again and must agree with PyTorch at three sizes and two batches, else it is not kept.

    Args:
        model: Folder of a run or model, ``hf-hub:USER/NAME``, or a timm name. Names of ours have no trained weights
            yet: they are exported with random ones, to be measured.
        format: Name in `FORMATS`.
        out: The file; ``runs/export/NAME`` and the format's suffix if not given.
        images: Files, folders or globs of photographs to check with; two of scikit-learn's if none.
        image_size: Pixels a side that the file is for; what the model was made for if not given.
        dynamic: For images of any size.
        keep_ops: As for `export_model`.
        rounds: Turns of each when timing; 0 for none.
        overwrite: Replace what an earlier call with other settings wrote.
        progress: Show a bar on the terminal.
        command: What made it, for the figures.
        open_named: Gives the model of a name; of other tasks `convneur.tasks.exportable.open_exportable`.

    Raises:
        AlreadyDone: If the file is there, made by the same call; ``told`` has its figures.
        ValueError: If the settings or images do not do, or the file does not answer as the model; it is not kept then.
        FileExistsError: If the file is there, made otherwise.
        OSError: If it cannot be written.
    """
    name = str(model)
    if rounds < 0 or (image_size is not None and image_size < 1):
        raise ValueError("--rounds must be 0 or more, and --image-size 1 or more")
    chosen = FORMATS[format]
    path = Path(out or Path("runs/export") / f"{_file_name(name)}{chosen.suffix}").expanduser()
    if not path.name.endswith(chosen.suffix) or format_of(path) != format:
        raise ValueError(f"--out {path} and --format {format} do not fit; its name should end in {chosen.suffix}")
    made_from = {
        "model": model_identity(name),
        "image_size": image_size,
        "check_images": [*images, files_hash(*images)],
        "dynamic": dynamic,
        "keep_ops": keep_ops,
    }
    if keep_ops and format != "torch":
        raise ValueError(f"--keep-ops is for --format torch, and not for {format}; leave one of them out")
    with OutputFile(chosen.files(path), "export", overwrite) as target:
        target.check(made_from)
        photos = _photos(images)
        with status(f"Loading {name}", progress):
            chosen.require()
            loaded, metadata, is_trained = open_named(name)
        config = dict(metadata.config)
        if image_size is not None:
            size = (config["input_size"][0], image_size, image_size)
            require_size(loaded, name, size, config["input_size"])
            config |= {"input_size": size}
            metadata = replace(metadata, config=config)
        preprocessing = Preprocessing.of(config)
        rows: list[dict[str, Any]] = []
        with Progress(console=Console(stderr=True), transient=True, disable=not progress) as bar:
            task = bar.add_task(f"Exporting to {path}", total=None)

            def check(exported: Runtime) -> None:
                sizes = checks.sizes_to_check(exported.pretrained_cfg)
                bar.update(task, description="Checking", total=len(sizes) * len(checks.BATCHES))
                for batch in checks.photo_batches(photos, preprocessing, sizes):
                    found = checks.agreement(loaded, exported, batch)
                    checks.require_agreement(found)
                    rows.append(asdict(found))
                    if rounds:
                        steps = {"eager": inference_step(loaded, batch), format: inference_step(exported, batch)}
                        times = times_in_turn(steps, torch.device("cpu"), rounds)
                        rows[-1]["milliseconds"] = {
                            name: [1e3 * x for x in spread(each)] for name, each in times.items()
                        }
                    bar.advance(task)

            any_size = dynamic and not config.get("fixed_input_size")
            files = export_model(loaded, path, metadata, any_size, keep_ops, check)
        facts = {
            "command": command,
            "threads": torch.get_num_threads(),
            "model": name,
            "format": format,
            "file": str(path),
            "bytes": sum(file.stat().st_size for file in files),
            "versions": versions(),
            "rows": rows,
        }
        target.finish(facts)
    return ExportResult(path, facts, metadata, is_trained)


def _file_name(model: str) -> str:
    """What to call the file: the folder's name, or the last part of the model's."""
    folder = Path(model).expanduser()
    return folder.resolve().name if folder.exists() else model.rsplit("/", 1)[-1].replace(":", "-")


def _photos(paths: Sequence[str]) -> list[Image.Image]:
    if not paths:
        try:
            return [sample_image(name) for name in SAMPLES]
        except ImportError as error:
            raise ImportError(f"{error}, or give --images") from error
    photos = []
    for file in find_images(paths)[:PHOTOS]:
        try:
            photos.append(decode_image(file))
        except ValueError as error:
            raise ValueError(f"{file} cannot be read ({error}); give other --images") from error
    return photos
