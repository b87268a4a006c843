"""Files of PyTorch itself: a torch.export program, and a package compiled by AOTInductor."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from convneur.export.program import logits_of, quiet
from convneur_options import __version__

METADATA = "convneur.json"


def write_program(program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a ``.pt2`` file that any PyTorch of the same or a later version runs or compiles."""
    whole = io.BytesIO()  # torch's own writer ends the process when the disk is full
    with quiet():
        torch.export.save(program, whole, extra_files={METADATA: json.dumps(dict(metadata))})
    path.write_bytes(whole.getbuffer())


def load_program(path: Path) -> tuple[Callable[[Tensor], Tensor], dict[str, str]]:
    """What runs the program, and its metadata. Reading it runs code that is in it: for files that are trusted.

    Raises:
        ValueError: If the file is damaged, or calls operations of ours that are not here.
    """
    _check_whole(path)
    with zipfile.ZipFile(path) as archive:
        _check_operations(b"".join(archive.read(name) for name in archive.namelist() if name.endswith(".json")))
    extra: dict[str, str] = {METADATA: ""}
    with quiet():
        module = torch.export.load(path, extra_files=extra).module()
    return lambda images: logits_of(module(images)), json.loads(extra[METADATA] or "{}")


def read_metadata(path: Path) -> dict[str, str]:
    """What the file says of itself, of which nothing is run; of a compiled package nothing, for it holds no text."""
    with zipfile.ZipFile(path) as archive:
        name = next((each for each in archive.namelist() if each.endswith(f"/extra/{METADATA}")), None)
        if name is None or archive.getinfo(name).file_size > 1 << 24:
            return {}
        kept: dict[str, str] = json.loads(archive.read(name))
    return kept


def require_compiler() -> None:
    """Ask for what `write_package` needs.

    Raises:
        ImportError: If there is no C++ compiler.
    """
    # As PyTorch chooses one.
    name, *_ = shlex.split(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++"))
    if shutil.which(name) is None:
        raise ImportError("--format aoti needs a C++ compiler; install g++ or clang, or set CXX")


def write_package(program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    """Compile for this machine's processor and the number of threads that PyTorch has now."""
    with quiet():
        torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(path),
            inductor_configs={"aot_inductor.metadata": {METADATA: json.dumps(dict(metadata))}},
        )


def load_package(path: Path) -> tuple[Callable[[Tensor], Tensor], dict[str, str]]:
    """The compiled code, and its metadata. It is machine code: for files that are trusted.

    Raises:
        ValueError: If the file is damaged.
    """
    _check_whole(path)
    with quiet():
        compiled = torch._inductor.aoti_load_package(str(path))
    return compiled, json.loads(compiled.get_metadata().get(METADATA, "{}"))


def _check_whole(path: Path) -> None:
    """Compare the checksums: code that is damaged would be run otherwise."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"its part {damaged} is damaged")


def _check_operations(program: bytes) -> None:
    """Name an operation of ours that a program calls and that is not here; PyTorch would only log it."""
    called = {name.decode() for name in re.findall(rb"torch\.ops\.convneur\.(\w+)", program)}
    for name in sorted(called):
        if not hasattr(torch.ops.convneur, name):
            raise ValueError(
                f"it calls torch.ops.convneur.{name}, which ConvNeur {__version__} does not have; install the version "
                "that wrote it, or export without --keep-ops"
            )
