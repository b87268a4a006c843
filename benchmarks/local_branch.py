"""Blocks without a global branch: plain, fused as PyTorch has it, and fused by the one call of C; beside a floor.

    python benchmarks/local_branch.py --out docs/results/speed/local_branch.json

All in turn (A B A B), medians and quartiles of `--rounds`, fp32, on a CPU. The floor is the multiply-accumulates at the
rate of a large product, which is measured in the same run; it leaves out that anything has to be read or written.
"""

from __future__ import annotations

import argparse
import json
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from convneur.bench import freed_memory_kept, inference_step, times_in_turn
from convneur.bench.floor import measured_rates
from convneur.bench.throughput import spread
from convneur.explain.report import versions
from convneur.files import write_atomic
from convneur.layers import ConvNeurBlock, local_kernel
from convneur.models.backbone import fuse_layers

CPU = torch.device("cpu")
FORMS = "plain", "fused by PyTorch", "fused by C"
STAGES = [(40, 56), (80, 56), (80, 28), (160, 28), (160, 14), (320, 14), (320, 7), (640, 7)]  # of M1 and M4 at 224 px


def forms(dim: int) -> dict[str, nn.Module]:
    """A block thrice, of the same weights."""
    plain = ConvNeurBlock(dim, ls_init_value=0.1).eval()
    by_torch, by_c = deepcopy(plain), deepcopy(plain)
    fuse_layers(by_c)
    library, local_kernel.LIBRARY = local_kernel.LIBRARY, None
    fuse_layers(by_torch)
    local_kernel.LIBRARY = library
    return dict(zip(FORMS, (plain, by_torch, by_c), strict=True))


def main() -> None:
    """Measure, print a table, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if local_kernel.LIBRARY is None:
        parser.error("the C library of the local branch was not built; python hatch_build.py says why")
    torch.manual_seed(0)
    rates = measured_rates(CPU, torch.float32)
    found = []
    print(f"| microseconds | {' | '.join(FORMS)} | floor |\n|---|---|---|---|---|")
    with freed_memory_kept():
        for batch in args.batches:
            for dim, side in STAGES:
                x = torch.randn(batch, dim, side, side).contiguous(memory_format=torch.channels_last)
                floor = 2 * batch * side**2 * dim * (49 + 8 * dim) / rates.flops
                steps = {name: inference_step(block, x) for name, block in forms(dim).items()}
                seconds = {name: spread(each) for name, each in times_in_turn(steps, CPU, args.rounds).items()}
                found.append({"dim": dim, "side": side, "batch": batch, "floor": floor, "seconds": seconds})
                cells = [f"{1e6 * a:.0f} ({1e6 * b:.0f} to {1e6 * c:.0f})" for a, b, c in seconds.values()]
                print(
                    f"| {dim} channels, {batch} x {side} x {side} | {' | '.join(cells)} | {1e6 * floor:.0f} |",
                    flush=True,
                )
    if args.out is not None:
        told = {"threads": torch.get_num_threads(), "rounds": args.rounds, "versions": versions()}
        told |= {"processor": local_kernel.PROCESSOR, "rates": asdict(rates), "blocks": found}
        write_atomic(args.out, json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
