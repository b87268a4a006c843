"""``convneur info``: the variants and what they cost, and which operations have a kernel here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, Literal

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
    from convneur.bench import count_cost
    from convneur.models import PRESETS, VARIANTS, create_model
    from convneur.models.registry_utils import choose
    from convneur.ops import OPERATIONS
    from convneur.printing import print_json

    def cost(name: str, **arguments: Any) -> dict[str, Any]:
        return asdict(count_cost(partial(create_model, name, **arguments), image_size))

    choose(preset, PRESETS, "--preset")
    kernels = {operation.name: operation.unavailable() for operation in OPERATIONS}
    shown: dict[str, Any] = {"preset": preset} | ({"memory": {"state": state}} if state else {})
    if json_:
        kinds: dict[str, dict[str, Any]] = {
            "default": {},
            "mlp": {"memory": {"state": "mlp"}},
            "published": {"preset": "published"},
            "local_only": {"global_placement": "none"},
        }
        rows = {
            name: {"dims": v.dims, "depths": v.depths, "memory_width": 2 * v.dims[0], "baseline": v.baseline}
            | {kind: cost(name, **arguments) for kind, arguments in kinds.items()}
            for name, v in VARIANTS.items()
        }
        found = {name: {"serves": reason is None, "reason": reason} for name, reason in kernels.items()}
        print_json({"image_size": image_size, "variants": rows, "kernels": found}, indent=2)
        return
    from convneur.printing import Console, Table, box

    def joined(numbers: Iterable[int]) -> str:
        return "/".join(map(str, numbers))

    title = f"ConvNeur at {image_size} px, preset {preset}" + (f", {state} state" if state else "")
    style: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False, "show_edge": False}
    table = Table(title=title, caption="parameters in millions, MACs in billions", **style)
    for heading in ("variant", "widths", "tokens", "params", "MACs", "local", "memory", "rest"):
        table.add_column(heading, justify="left" if heading == "variant" else "right")
    for name, variant in VARIANTS.items():
        counted = count_cost(partial(create_model, name, **shown), image_size)
        macs = (counted.macs, counted.macs_local, counted.macs_memory, counted.macs_rest)
        millions = f"{counted.params / 1e6:.2f}"
        table.add_row(name, joined(variant.dims), joined(counted.tokens), millions, *(f"{n / 1e9:.3f}" for n in macs))
    served = Table("operation", "CPU kernel", **style)
    for name, reason in kernels.items():
        served.add_row(name, "serves" if reason is None else f"does not serve: {reason}")
    console = Console()
    console.print(table)
    console.print()
    console.print(served)
