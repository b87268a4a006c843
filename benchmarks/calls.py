"""Counts calls of Python functions inside convneur in one forward of a model in eval mode, with kernels and without.

    python benchmarks/calls.py

A generator counts each time it goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import timm
import torch

import convneur
from convneur import ops

PACKAGE = str(Path(convneur.__file__).parent)


def count(model: torch.nn.Module, images: torch.Tensor) -> Counter[str]:
    """Calls by function, ``file:function``, of one forward under `torch.inference_mode`, after another one."""
    found: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            file = Path(frame.f_code.co_filename).relative_to(PACKAGE)
            found[f"{file}:{frame.f_code.co_name}"] += 1

    with torch.inference_mode():
        model(images)
        sys.setprofile(note)
        try:
            model(images)
        finally:
            sys.setprofile(None)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="convneur_m1")
    parser.add_argument("--size", type=int, default=224)
    options = parser.parse_args()
    model = timm.create_model(options.model).eval()
    images = torch.randn(1, 3, options.size, options.size)
    for on in (True, False):
        with ops.use_kernels(on):
            found = count(model, images)
        print(f"{options.model}, kernels {'on' if on else 'off'}: {found.total()} calls")
        for name, calls in found.most_common(10):
            print(f"{calls:6}  {name}")
    for operation in ops.OPERATIONS:
        if operation.unavailable() is not None:
            print(f"no kernel of {operation.name}: {operation.unavailable()}")


if __name__ == "__main__":
    main()
