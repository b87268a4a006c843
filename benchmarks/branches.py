"""The branches of blocks, each done in several ways, beside a floor: what the calls of C are worth.

    python benchmarks/branches.py local --out docs/results/speed/local_branch.json
    python benchmarks/branches.py global --out docs/results/speed/global_branch.json

``local``: blocks without a global branch, plain, fused as PyTorch has it, and fused by one call of C. ``global``: the
global branch of a plain block, in several calls and in one.

All in turn (A B A B), medians and quartiles of `--rounds`, fp32, on a CPU. The floor is the multiply-accumulates at the
rate of a large product, which is measured in the same run; it leaves out that anything has to be read or written.
"""

from __future__ import annotations

import argparse
import json
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import timm
import torch
from torch import Tensor, nn

from convneur.bench import freed_memory_kept, inference_step, times_in_turn
from convneur.bench.floor import measured_rates
from convneur.bench.throughput import spread
from convneur.explain.report import versions
from convneur.files import write_atomic
from convneur.layers import ConvNeurBlock, GlobalBranch, branch_kernel, local_kernel
from convneur.models.backbone import fuse_layers

CPU = torch.device("cpu")


class Without(nn.Module):
    """A layer as it is where a library was not built."""

    def __init__(self, layer: nn.Module, kernel: ModuleType) -> None:
        super().__init__()
        self.layer, self.kernel = layer, kernel

    def forward(self, x: Tensor) -> object:
        """Whatever the layer gives."""
        library, self.kernel.LIBRARY = self.kernel.LIBRARY, None
        try:
            return self.layer(x)
        finally:
            self.kernel.LIBRARY = library


def local_forms(model: str, stage: int) -> tuple[dict[str, nn.Module], int]:
    """A block of a model's stage thrice, of the same weights, and its multiply-accumulates for a pixel."""
    channels = block_of(model, stage).conv_dw.in_channels
    plain = ConvNeurBlock(channels, ls_init_value=0.1).eval()
    by_torch, by_c = deepcopy(plain), deepcopy(plain)
    fuse_layers(by_c)
    library, local_kernel.LIBRARY = local_kernel.LIBRARY, None
    fuse_layers(by_torch)
    local_kernel.LIBRARY = library
    return {"plain": plain, "fused by PyTorch": by_torch, "fused by C": by_c}, channels * (49 + 8 * channels)


def global_forms(model: str, stage: int) -> tuple[dict[str, nn.Module], int]:
    """A branch twice, and its multiply-accumulates for a pixel."""
    branch = block_of(model, stage).global_branch
    assert isinstance(branch, GlobalBranch)
    width, channels = branch.down.out_features, branch.down.in_features
    heads = branch.memory.config.num_heads  # type: ignore[union-attr]  # the default is a memory
    maps = 3 * channels * width + 4 * width**2 + 2 * heads * width
    memory = 3 * width * (width // heads)
    forms = {"in several calls": Without(branch, branch_kernel), "in one": branch}
    return forms, (maps + memory) // branch.token_stride**2


def block_of(model: str, stage: int) -> ConvNeurBlock:
    """The first block of a stage."""
    block = timm.create_model(model).eval().stages[stage].blocks[0]
    assert isinstance(block, ConvNeurBlock)
    return block


def main() -> None:
    """Measure, print a table, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("branch", choices=["local", "global"])
    parser.add_argument("--models", nargs="+", default=["convneur_m1", "convneur_m4"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    make, kernel = (local_forms, local_kernel) if args.branch == "local" else (global_forms, branch_kernel)
    if kernel.LIBRARY is None:
        parser.error(f"the C library of the {args.branch} branch was not built; python hatch_build.py says why")
    torch.manual_seed(0)
    rates = measured_rates(CPU, torch.float32)
    found = []
    with freed_memory_kept():
        for batch in args.batches:
            for stage in range(4):
                for model in args.models:
                    forms, count = make(model, stage)
                    if not found:
                        print(f"| microseconds | {' | '.join(forms)} | floor |\n|{'---|' * (len(forms) + 2)}")
                    dim, side = block_of(model, stage).conv_dw.in_channels, 56 >> stage  # of an image of 224 px
                    x = torch.randn(batch, dim, side, side).contiguous(memory_format=torch.channels_last)
                    floor = 2 * batch * side**2 * count / rates.flops
                    steps = {name: inference_step(form, x) for name, form in forms.items()}
                    seconds = {name: spread(each) for name, each in times_in_turn(steps, CPU, args.rounds).items()}
                    found.append(
                        {"model": model, "dim": dim, "side": side, "batch": batch, "floor": floor, "seconds": seconds}
                    )
                    cells = [f"{1e6 * a:.0f} ({1e6 * b:.0f} to {1e6 * c:.0f})" for a, b, c in seconds.values()]
                    what = f"{model}, {dim} channels, {batch} x {side} x {side}"
                    print(f"| {what} | {' | '.join(cells)} | {1e6 * floor:.0f} |", flush=True)
    if args.out is not None:
        told = {"threads": torch.get_num_threads(), "rounds": args.rounds, "versions": versions()}
        told |= {"processor": local_kernel.PROCESSOR, "rates": asdict(rates), "blocks": found}
        write_atomic(args.out, json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
