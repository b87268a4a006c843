"""The formats by name: write a model, and load what was written as a module."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from convneur.export import onnx_file, openvino_file, torch_file
from convneur.export.export_metadata import SEGMENTER, ExportMetadata
from convneur.export.program import WithClasses, trace
from convneur.export.runtime import Runtime
from convneur.files import check_file, new_for, why_unreadable
from convneur.models import Loaded, load_model
from convneur.python_calls import python_call

FormatName = Literal["onnx", "torch", "aoti", "openvino"]


class Format(NamedTuple):
    """How a format is written and read.

    Attributes:
        suffix: End of its file names.
        require: Raises an ImportError if something it needs is not here.
        write: Program, file, and what the file should say of itself.
        load: File -> what runs it, and what it says of itself.
        metadata: File -> what it says of itself, without running any of it.
        beside: Suffix of a second file of the same name.
        runs_code: Whether loading a file runs code that is in it.
        keeps_ops: Whether ``write`` wants our operations by name, to replace them itself.
    """

    suffix: str
    require: Callable[[], None]
    write: Callable[[ExportedProgram, Path, Mapping[str, str]], None]
    load: Callable[[Path], tuple[Callable[[Tensor], Tensor], dict[str, str]]]
    metadata: Callable[[Path], dict[str, str]]
    beside: str | None = None
    runs_code: bool = False
    keeps_ops: bool = False

    def files(self, path: Path) -> list[Path]:
        """All files of an export; ``path`` names the last, without which the others are nothing."""
        return [path] if self.beside is None else [path.with_suffix(self.beside), path]


# A suffix that ends with another stands before it.
FORMATS: dict[FormatName, Format] = {
    "onnx": Format(".onnx", onnx_file.require, onnx_file.write, onnx_file.load, onnx_file.read_metadata),
    "aoti": Format(
        ".aoti.pt2",
        torch_file.require_compiler,
        torch_file.write_package,
        torch_file.load_package,
        torch_file.read_metadata,
        runs_code=True,
    ),
    "torch": Format(
        ".pt2",
        lambda: None,
        torch_file.write_program,
        torch_file.load_program,
        torch_file.read_metadata,
        runs_code=True,
    ),
    "openvino": Format(
        ".xml",
        openvino_file.require,
        openvino_file.write,
        openvino_file.load,
        openvino_file.read_metadata,
        beside=".bin",
        keeps_ops=True,
    ),
}


@python_call()
def export_model(
    model: nn.Module,
    path: str | Path,
    metadata: ExportMetadata,
    dynamic: bool = True,
    keep_ops: bool = False,
    check: Callable[[Runtime], None] | None = None,
) -> list[Path]:
    """Write a model as a file for another runtime, with its labels and preprocessing.

    Written elsewhere first, and moved when it is whole and checked: a crash, a full disk or a wrong export leaves what
    was there before, or nothing.

    Args:
        model: In eval mode; it stays as it is.
        path: Of the file; the end of its name says which format, see `FORMATS`.
        metadata: What the file should say of itself.
        dynamic: For any batch, height and width; else for any batch, at the size in ``metadata``.
        keep_ops: Let a ``.pt2`` call our operations (`convneur.ops`) by name, for their kernels. A process needs
            ``import convneur`` to load it.
        check: Gets the file as it was loaded again; if it raises, the file is not kept.

    Returns:
        The files, ``path`` the last.

    Raises:
        ValueError: If the model cannot be traced, the labels do not fit it, the name's end is not one of a format,
            or ``keep_ops`` is for another one than ``.pt2``.
        ImportError: If the format needs a package that is not here.
        OSError: If it cannot be written.
    """
    path = Path(path).expanduser()
    format = FORMATS[format_of(path)]
    if keep_ops and format is not FORMATS["torch"]:
        raise ValueError("--keep-ops is for --format torch; other runtimes do not have our operations")
    format.require()
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    channels, height, width = metadata.config["input_size"]
    # timm's description is of the weights that were loaded, and stays when the classifier is replaced.
    classes = getattr(model, "num_classes", metadata.config["num_classes"])
    if metadata.labels is not None and len(metadata.labels) != classes:
        raise ValueError(f"{len(metadata.labels)} labels do not fit {classes} classes; give one for each, or None")
    if metadata.segmenter is not None:
        if format is FORMATS["aoti"]:
            raise ValueError("--format aoti is for classifiers; export a segmentation model as onnx, openvino or torch")
        model = WithClasses(model)
    program, smallest = trace(model, (channels, height, width), dynamic, keep_ops or format.keeps_ops)
    sizes = {"fixed_input_size": not dynamic, "min_input_size": (channels, *smallest)}
    metadata = replace(metadata, config={**metadata.config, "num_classes": classes, **sizes})
    # Not beside the file: some writers end the process when the disk is full; Python's copying only says so.
    with tempfile.TemporaryDirectory(prefix="convneur-") as folder:
        made = Path(folder) / path.name
        with _full_disk_said(Path(folder)):
            format.write(program, made, metadata.as_text())
        if check is not None:
            check(_loaded(made, format)[0])
        _place(format.files(made), format.files(path))
    return format.files(path)


@python_call()
def load_exported(path: str | Path, trust: bool = False) -> Loaded:
    """Load what `export_model` wrote.

    Args:
        path: Of the file.
        trust: Load a ``.pt2`` or ``.aoti.pt2``, too, which runs the code in it: PyTorch has no safe way to read one.
            The other formats hold no code, and need no trust.

    Returns:
        A `Runtime` as the model, its ``pretrained_cfg`` as far as it is kept, and the names of its classes.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it is no regular file.
        ValueError: If it is damaged, not of a known format, or needs trust that is not given; nothing of it is read
            then.
        ImportError: If the runtime is not installed.
    """
    path = Path(path).expanduser()
    format = FORMATS[format_of(path)]
    for file in format.files(path):
        check_file(file, "give a file that convneur export wrote")
    if format.runs_code and not trust:
        raise ValueError(
            f"{path} was not opened: a {format.suffix} file runs code in it; add --trust "
            "if you trust whoever made it, or get the model as ONNX (.onnx) or OpenVINO (.xml), which need no trust"
        )
    model, metadata = _loaded(path, format)
    return Loaded(model, dict(metadata.config), None if metadata.labels is None else list(metadata.labels))


def is_segmenter(source: str | Path) -> bool:
    """Whether an exported file says that it gives a class per pixel; False for anything else, and for damaged ones."""
    path = Path(source).expanduser()
    format = next((each for each in FORMATS.values() if path.name.endswith(each.suffix)), None)
    if format is None or not path.is_file():
        return False
    try:
        return SEGMENTER in format.metadata(path)
    except Exception:  # a missing package, a damaged or hostile file: loading it says so
        return False


def open_model(source: str | Path, trust: bool = False) -> Loaded:
    """A trained model, exported or not: `load_exported` or `convneur.models.load_model`, which needs no trust."""
    exported = any(Path(source).name.endswith(format.suffix) for format in FORMATS.values())
    return load_exported(source, trust) if exported else load_model(source)


def format_of(path: Path) -> FormatName:
    """The format that the end of a file's name tells.

    Raises:
        ValueError: If it tells none.
    """
    for name, format in FORMATS.items():
        if path.name.endswith(format.suffix):
            return name
    ends = ", ".join(format.suffix for format in FORMATS.values())
    raise ValueError(f"{path} has no ending of an exported model; give it one of {ends}")


def _loaded(path: Path, format: Format) -> tuple[Runtime, ExportMetadata]:
    """What a file holds, asked once: whether it answers as it says does not show before."""
    try:
        run, text = format.load(path)
        metadata = ExportMetadata.from_text(text)
        runtime = Runtime(run, metadata, path.name).eval()
        size = metadata.config["input_size" if metadata.config["fixed_input_size"] else "min_input_size"]
        runtime(torch.zeros(1, *size))
    except ImportError:
        raise
    except Exception as error:  # damaged or hostile files: whatever the runtimes raise
        reason = why_unreadable(error)
        raise ValueError(f"{path} cannot be loaded ({reason}); if it is damaged or renamed, export it again") from error
    return runtime, metadata


@contextmanager
def _full_disk_said(folder: Path) -> Iterator[None]:
    """Say that the disk is full where a writer says anything else."""
    try:
        yield
    except RuntimeError as error:
        if shutil.disk_usage(folder).free < 1 << 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise


def _place(made: list[Path], wanted: list[Path]) -> None:
    """Copy files to where they should be, all or none."""
    fresh = Path(tempfile.mkdtemp(prefix=new_for(wanted[-1]), dir=wanted[-1].parent))
    try:
        for file in made:
            shutil.copyfile(file, fresh / file.name)
        if len(wanted) > 1:
            wanted[-1].unlink(missing_ok=True)  # an old one with a new file beside it would load, and be wrong
        for file, target in zip(made, wanted, strict=True):
            (fresh / file.name).replace(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
