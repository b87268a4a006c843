"""Builds the C libraries of the memory and of the block where that can be; without them all works.

`pip install` runs this; ``python hatch_build.py`` does it by hand, and says why not. ``CC`` names another compiler, and
``CONVNEUR_KERNELS=0`` leaves the libraries out, for a wheel that runs anywhere.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parent / "src" / "convneur"
AVX512 = "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512"
# Each with the processors that it is compiled for beside AVX2, which is looked for before a library is loaded.
LIBRARIES = {
    SOURCES / "memory" / "kernels.c": [""],
    SOURCES / "layers" / "branch.c": ["", AVX512],
    SOURCES / "layers" / "local_block.c": ["", AVX512],
}
HEADER = SOURCES / "memory" / "lanes.h"  # of all of them
# Linked without OpenMP, so that PyTorch's is taken.
COMPILE = "-O3 -mavx2 -mfma -std=gnu11 -fno-math-errno -fopenmp -fPIC -c".split()


def built_from(source: Path) -> Path:
    """Where the library of a file of C is."""
    return source.with_name(f"_{source.stem}.so")


def build() -> dict[Path, str]:
    """Build the libraries, each whole or not at all. Returns which sources have none, and why."""
    missing: dict[Path, str] = {}
    for source, processors in LIBRARIES.items():
        try:
            built_from(source).unlink(missing_ok=True)
            reason = _obstacle() or _built(source, processors)
        except OSError as error:
            reason = str(error)
        if reason is not None:
            missing[source] = reason
    return missing


def told(missing: dict[Path, str]) -> list[str]:
    """A line for each reason."""
    reasons = dict.fromkeys(missing.values())
    return [f"{', '.join(source.name for source in missing if missing[source] == each)}: {each}" for each in reasons]


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "")) or ["cc"]


def _obstacle() -> str | None:
    if os.environ.get("CONVNEUR_KERNELS") == "0":
        return "CONVNEUR_KERNELS=0"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"they are for Linux on x86-64, and this is {sys.platform} on {platform.machine()}"
    if shutil.which(_compiler()[0]) is None:
        return f"there is no C compiler called {_compiler()[0]}"
    return None


def _built(source: Path, processors: list[str]) -> str | None:
    compiler, library = _compiler(), built_from(source)
    digest = hashlib.sha256(source.read_bytes() + HEADER.read_bytes()).hexdigest()
    with tempfile.TemporaryDirectory() as folder:
        linked = Path(folder, library.name)
        made = [str(Path(folder, f"{number}.o")) for number in range(len(processors))]
        compiled = [
            [*COMPILE, *options.split(), f'-DCONVNEUR_SOURCE="{digest}"', str(source), "-o", file]
            for options, file in zip(processors, made, strict=True)
        ]
        for arguments in (*compiled, ["-shared", *made, "-o", str(linked), "-lm"]):
            done = subprocess.run([*compiler, *arguments], capture_output=True, text=True)
            if done.returncode:
                return f"{compiler[0]} said: {(done.stderr.strip().splitlines() or ['nothing'])[-1]}"
        if b"__kmpc_" in linked.read_bytes():
            return f"{compiler[0]} asks for another OpenMP than PyTorch has; take gcc"
        whole = library.with_suffix(f".{os.getpid()}")
        try:
            shutil.copyfile(linked, whole)
            whole.replace(library)
        finally:
            whole.unlink(missing_ok=True)
    return None


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # by hand, outside of a build
    pass
else:

    class Kernels(BuildHookInterface[Any]):
        """Builds the libraries before a wheel, or an editable installation, is made."""

        PLUGIN_NAME = "custom"

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            """Called by hatchling."""
            missing = build()
            for line in told(missing):
                self.app.display_warning(f"PyTorch stands in for {line}")
            there = [built_from(source) for source in LIBRARIES if source not in missing]
            if not there:
                return
            build_data["artifacts"].extend(str(library.relative_to(self.root)) for library in there)
            build_data["pure_python"] = False
            build_data["tag"] = "py3-none-linux_x86_64"  # it is not bound to a version of Python


if __name__ == "__main__":
    sys.exit("\n".join(told(build())) or None)
