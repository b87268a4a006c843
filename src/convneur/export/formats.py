"""The formats by name: write a model, and load what was written as a module."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from convneur.export import onnx_file, openvino_file, torch_file
from convneur.export.facts import Facts
from convneur.export.program import program
from convneur.models import Loaded, load_model

FormatName = Literal["onnx", "torch", "aoti", "openvino"]
Load = Callable[[Path], tuple[Callable[[Tensor], Tensor], dict[str, str]]]


class Format(NamedTuple):
    """How a format is written and read, and the end of its file names."""

    suffix: str
    write: Callable[[ExportedProgram, Path, Mapping[str, str]], None]
    load: Load


# A suffix that ends with another stands before it.
FORMATS: dict[FormatName, Format] = {
    "onnx": Format(".onnx", onnx_file.write, onnx_file.load),
    "aoti": Format(".aoti.pt2", torch_file.write_package, torch_file.load_package),
    "torch": Format(".pt2", torch_file.write_program, torch_file.load_program),
    "openvino": Format(".xml", openvino_file.write, openvino_file.load),
}


class Runtime(nn.Module):
    """An exported model in its runtime: images (B, C, H, W) -> logits (B, classes), on a CPU, without gradients.

    Args:
        run: Of the runtime.
        facts: What the file says of itself.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], facts: Facts) -> None:
        super().__init__()
        self.run = run if not isinstance(run, nn.Module) else run.forward  # not a part that has weights to move
        self.facts = facts

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """Images on any device -> logits on the CPU."""
        return self.run(images.detach().float().cpu().contiguous())


def export_model(
    model: nn.Module,
    path: str | Path,
    facts: Facts,
    fuse: bool = True,
    dynamic: bool = True,
) -> Path:
    """Write a model as a file for another runtime, with its labels and preprocessing.

    Written beside the file first and then moved, so that a crash never leaves half of one.

    Args:
        model: In eval mode; it stays as it is.
        path: Of the file; the end of its name says which format, see `FORMATS`.
        facts: What the file should say of itself.
        fuse: Fold what does not depend on the image.
        dynamic: For any batch, height and width; else for any batch, at the size in ``facts``.

    Returns:
        The file.

    Raises:
        ValueError: If the model cannot be traced, or the name's end is not one of a format.
        ImportError: If the format needs a package that is not here.
    """
    path = Path(path)
    write = FORMATS[format_of(path)].write
    channels, height, width = facts.config["input_size"]
    traced = program(model, (channels, height, width), fuse, dynamic)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        write(traced, folder / path.name, facts.as_text())
        for file in sorted(folder.iterdir(), reverse=True):  # OpenVINO's .xml before its .bin would be half a model
            file.chmod(0o644)
            file.replace(path.parent / file.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return path


def load_exported(path: str | Path) -> Loaded:
    """Load what `export_model` wrote.

    A ``.pt2`` file can hold code: load only files that you trust.

    Returns:
        A `Runtime` as the model, its ``pretrained_cfg`` as far as it is kept, and the names of its classes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or not of a known format.
        ImportError: If the runtime is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a file that convneur export wrote")
    load = FORMATS[format_of(path)].load
    try:
        run, text = load(path)
    except ImportError:
        raise
    except Exception as error:  # damaged files: whatever the runtimes raise
        raise ValueError(f"{path} cannot be loaded ({' '.join(str(error).split())[:200]})") from error
    facts = Facts.of_text(text)
    return Loaded(Runtime(run, facts).eval(), dict(facts.config), None if facts.labels is None else list(facts.labels))


def open_model(source: str | Path) -> Loaded:
    """A trained model, exported or not: `load_exported` or `convneur.models.load_model`."""
    exported = any(str(source).endswith(format.suffix) for format in FORMATS.values())
    return load_exported(source) if exported else load_model(source)


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
