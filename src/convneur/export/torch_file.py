"""Files of PyTorch itself: a torch.export program, and a package compiled by AOTInductor."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from convneur.export.program import quiet

FACTS = "convneur.json"


def write_program(program: ExportedProgram, path: Path, facts: Mapping[str, str]) -> None:
    """Write a ``.pt2`` file that any PyTorch of the same or a later version runs or compiles."""
    with quiet(), path.open("wb") as file:  # by name it must end in .pt2, and the name is still another
        torch.export.save(program, file, extra_files={FACTS: json.dumps(dict(facts))})


def load_program(path: Path) -> tuple[Callable[[Tensor], Tensor], dict[str, str]]:
    """The program as a module, and its facts."""
    extra: dict[str, str] = {FACTS: ""}
    with quiet():
        module = torch.export.load(path, extra_files=extra).module()
    return module, _facts(extra[FACTS])


def write_package(program: ExportedProgram, path: Path, facts: Mapping[str, str]) -> None:
    """Compile for this machine's processor; needs a C++ compiler.

    Raises:
        ImportError: If there is no compiler.
    """
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        with quiet():
            torch._inductor.aoti_compile_and_package(
                program,
                package_path=str(path),
                inductor_configs={"aot_inductor.metadata": {FACTS: json.dumps(dict(facts))}},
            )
    except InvalidCxxCompiler as error:
        raise ImportError("--format aoti needs a C++ compiler; install g++ or clang, or set CXX") from error


def load_package(path: Path) -> tuple[Callable[[Tensor], Tensor], dict[str, str]]:
    """The compiled code, and its facts. It is machine code: load only what you trust."""
    compiled = torch._inductor.aoti_load_package(str(path))
    return compiled, _facts(compiled.get_metadata().get(FACTS, ""))


def _facts(text: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(text) if text else {}
    return found
