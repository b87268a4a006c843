"""Builds the C library of the memory (``src/convneur/memory/kernels.c``) where that can be; without it all works.

`pip install` runs this. ``python hatch_build.py`` does it by hand.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parent / "src" / "convneur" / "memory" / "kernels.c"
LIBRARY = SOURCE.with_name("_kernels.so")
# AVX2 is looked for before it is loaded. It is linked without OpenMP, so that PyTorch's is taken.
COMPILE = "-O3 -march=x86-64-v3 -std=gnu11 -fno-math-errno -fopenmp -fPIC -c".split()


def build() -> str | None:
    """Build the library, whole or not at all. Returns None, or why there is none."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"it is for Linux on x86-64, and this is {sys.platform} on {platform.machine()}"
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return "there is no C compiler"
    with tempfile.TemporaryDirectory(dir=SOURCE.parent) as folder:
        made, linked = Path(folder, "kernels.o"), Path(folder, LIBRARY.name)
        for command in ([*COMPILE, str(SOURCE), "-o", str(made)], ["-shared", str(made), "-o", str(linked), "-lm"]):
            done = subprocess.run([compiler, *command], capture_output=True, text=True)
            if done.returncode:
                return f"{compiler} said: {(done.stderr.strip().splitlines() or ['nothing'])[-1]}"
        linked.replace(LIBRARY)
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
