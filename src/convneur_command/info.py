"""``convneur info``: the variants and what they cost, and which operations have a kernel here."""

from __future__ import annotations

from typing import Annotated, Literal

import tyro


def info(
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False,
    image_size: int = 224,
    preset: str = "slots",
    state: Literal["slots", "linear", "mlp"] | None = None,
) -> None:
    """Show widths, tokens, parameters and true MACs of the variants.

    MACs are counted as they run, write and read of the memory included, and split into local branch, memory and rest.
    Below stands for each operation that has a CPU kernel whether it serves on this machine, and if not, why.

    Args:
        json_: Print JSON, with the default, the mlp state, the published preset and the local-only baseline of each.
        image_size: Height and width of the image.
        preset: Global branch to show: slots, linear or published.
        state: Another state of the memory than the preset's.
    """
    from convneur.bench.variants import kernels_table, variants_json, variants_table
    from convneur.models import PRESETS
    from convneur.models.registry_utils import choose
    from convneur.printing import Console, print_json

    choose(preset, PRESETS, "--preset")
    if json_:
        print_json(variants_json(image_size), indent=2)
        return
    console = Console()
    console.print(variants_table(image_size, preset, state))
    console.print()
    console.print(kernels_table())
