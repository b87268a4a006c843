"""What the depthwise convolution's own weight gradient saves on a CPU, alone and in a training step.

    python benchmarks/depthwise.py

Both versions run in turn (A B A B); medians, smallest and largest of `--runs` after two of warm-up.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn

from convneur import create_model
from convneur.layers.depthwise import DepthwiseConv2d


def layer_step(batch: int, dim: int, size: int) -> Callable[[], None]:
    """Forward and the gradients of filters and bias, the input needing none, of one convolution in channels-last."""
    layer = DepthwiseConv2d(dim)
    x = torch.randn(batch, dim, size, size).contiguous(memory_format=torch.channels_last)
    grad = torch.randn_like(x)
    return lambda: layer(x).backward(grad)


def training_step(batch: int, size: int, **model_args: object) -> Callable[[], None]:
    """Forward, backward and AdamW of convneur_m1."""
    model = create_model("convneur_m1", num_classes=10, ls_init_value=0.1, **model_args)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    images, labels = torch.randn(batch, 3, size, size), torch.randint(0, 10, (batch,))

    def step() -> None:
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def compare(step: Callable[[], None], runs: int) -> list[str]:
    """Milliseconds with torch's gradient and with ours, as text, and their ratio."""
    forwards = {"torch": nn.Conv2d.forward, "ours": DepthwiseConv2d.forward}
    times: dict[str, list[float]] = {name: [] for name in forwards}
    for _ in range(runs + 2):
        for name, forward in forwards.items():
            with patch.object(DepthwiseConv2d, "forward", forward):
                start = time.perf_counter()
                step()
                times[name].append(1000 * (time.perf_counter() - start))
    kept = {name: values[2:] for name, values in times.items()}
    cells = [f"{median(values):.1f} ({min(values):.1f} to {max(values):.1f})" for values in kept.values()]
    return [*cells, f"{median(kept['ours']) / median(kept['torch']):.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print("| | ms with torch's gradient | ms with ours | ratio |\n|---|---|---|---|")
    for dim, size in ((40, 16), (80, 8), (160, 4), (320, 2)):
        row = compare(layer_step(64, dim, size), args.runs)
        print(f"| convolution alone, 64 x {dim} x {size} x {size} | " + " | ".join(row) + " |", flush=True)
    cifar = {"patch_size": 2, "token_strides": (2, 1, 1, 1)}
    for name, batch, size, model_args in (
        ("32 px, recipe cifar's model", 128, 32, cifar),
        ("64 px", 64, 64, {}),
        ("64 px, local only", 64, 64, {"global_placement": "none"}),
        ("128 px", 32, 128, {}),
    ):
        row = compare(training_step(batch, size, **model_args), args.runs)
        print(f"| training step, {name}, batch {batch} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
