"""Builds the library of CPU kernels (``src/convneur/ops/csrc``) where that can be; without it everything works.

`pip install` runs this; ``python hatch_build.py`` does it by hand, and says why not. ``CC`` names another compiler, and
``CONVNEUR_KERNELS=0`` leaves the library out, for a wheel that runs anywhere.
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

FOLDER = Path(__file__).parent / "src" / "convneur" / "ops"
LIBRARY = FOLDER / "_kernels.so"
AVX512 = "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512"
# Each with what it is compiled for beside AVX2; which one serves is decided when the library is loaded.
SOURCES = {"global_branch.c": ["", AVX512], "local_branch.c": ["", AVX512], "gated_residual.c": [""]}
# Linked without OpenMP, so that PyTorch's is taken.
COMPILE = "-O3 -mavx2 -mfma -std=gnu11 -fno-math-errno -fopenmp -fPIC -c".split()


def digest() -> str:
    """Of all sources; a library of others is not loaded (``convneur.ops._library``)."""
    files = sorted((FOLDER / "csrc").glob("*.[ch]"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def build() -> str | None:
    """Build the library, whole or not at all. Returns why there is none."""
    try:
        LIBRARY.unlink(missing_ok=True)
        return _obstacle() or _built()
    except OSError as error:
        return str(error)


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


def _built() -> str | None:
    compiler = _compiler()
    with tempfile.TemporaryDirectory() as folder:
        linked = Path(folder, LIBRARY.name)
        origin = Path(folder, "digest.c")
        origin.write_text(f'const char *convneur_digest(void) {{ return "{digest()}"; }}\n')
        jobs = [(FOLDER / "csrc" / name, options) for name, kinds in SOURCES.items() for options in kinds]
        objects = [str(Path(folder, f"{number}.o")) for number in range(len(jobs) + 1)]
        compiled = [
            [*COMPILE, *options.split(), str(source), "-o", file]
            for (source, options), file in zip([*jobs, (origin, "")], objects, strict=True)
        ]
        for arguments in (*compiled, ["-shared", *objects, "-o", str(linked), "-lm"]):
            done = subprocess.run([*compiler, *arguments], capture_output=True, text=True)
            if done.returncode:
                return f"{compiler[0]} said: {(done.stderr.strip().splitlines() or ['nothing'])[-1]}"
        if b"__kmpc_" in linked.read_bytes():
            return f"{compiler[0]} asks for another OpenMP than PyTorch has; take gcc"
        whole = LIBRARY.with_suffix(f".{os.getpid()}")
        try:
            shutil.copyfile(linked, whole)
            whole.replace(LIBRARY)
        finally:
            whole.unlink(missing_ok=True)
    return None


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # by hand, outside of a build
    pass
else:

    class Kernels(BuildHookInterface[Any]):
        """Builds the library before a wheel, or an editable installation, is made."""

        PLUGIN_NAME = "custom"

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            """Called by hatchling."""
            missing = build()
            if missing is not None:
                self.app.display_warning(f"PyTorch stands in for the CPU kernels: {missing}")
                return
            build_data["artifacts"].append(str(LIBRARY.relative_to(self.root)))
            build_data["pure_python"] = False
            build_data["tag"] = "py3-none-linux_x86_64"  # it is not bound to a version of Python


if __name__ == "__main__":
    sys.exit(build())
