"""Builds the C library of the memory (``src/convneur/memory/kernels.c``) where that can be; without it all works.

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

SOURCE = Path(__file__).parent / "src" / "convneur" / "memory" / "kernels.c"
LIBRARY = SOURCE.with_name("_kernels.so")
# AVX2, which is looked for before the library is loaded. It is linked without OpenMP, so that PyTorch's is taken.
COMPILE = "-O3 -mavx2 -mfma -std=gnu11 -fno-math-errno -fopenmp -fPIC -c".split()


def build() -> str | None:
    """Build the library, whole or not at all. Returns None, or why there is none."""
    try:
        LIBRARY.unlink(missing_ok=True)
        return _built()
    except OSError as error:
        return str(error)


def _built() -> str | None:
    if os.environ.get("CONVNEUR_KERNELS") == "0":
        return "CONVNEUR_KERNELS=0"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"it is for Linux on x86-64, and this is {sys.platform} on {platform.machine()}"
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(compiler[0]) is None:
        return f"there is no C compiler called {compiler[0]}"
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()
    with tempfile.TemporaryDirectory() as folder:
        made, linked = Path(folder, "kernels.o"), Path(folder, LIBRARY.name)
        for arguments in (
            [*COMPILE, f'-DCONVNEUR_SOURCE="{digest}"', str(SOURCE), "-o", str(made)],
            ["-shared", str(made), "-o", str(linked), "-lm"],
        ):
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
            reason = build()
            if reason is not None:
                self.app.display_warning(f"the memory goes without its C library: {reason}")
                return
            build_data["artifacts"].append(str(LIBRARY.relative_to(self.root)))
            build_data["pure_python"] = False
            build_data["tag"] = "py3-none-linux_x86_64"  # it is not bound to a version of Python


if __name__ == "__main__":
    sys.exit(build())
