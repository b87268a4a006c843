"""What the variants cost, and which operations have a kernel here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from typing import Any

from convneur.bench.macs import Cost, count_cost
from convneur.models import VARIANTS, create_model
from convneur.ops import OPERATIONS
from convneur.printing import Table, box

STYLE: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False, "show_edge": False}
KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "mlp": {"memory": {"state": "mlp"}},
    "published": {"preset": "published"},
    "local_only": {"global_placement": "none"},
}


def variant_costs(image_size: int = 224, **arguments: Any) -> dict[str, Cost]:
    """Cost of each variant, by name.

    Args:
        image_size: Height and width of the image.
        **arguments: Of `create_model`.
    """
    return {name: count_cost(partial(create_model, name, **arguments), image_size) for name in VARIANTS}


def why_no_kernel() -> dict[str, str | None]:
    """For each operation why its CPU kernel does not serve on this machine; None if it does."""
    return {operation.name: operation.unavailable() for operation in OPERATIONS}


def variants_json(image_size: int = 224) -> dict[str, Any]:
    """Each variant with its default, the mlp state, the published preset and the local-only baseline; and kernels."""
    costs = {kind: variant_costs(image_size, **arguments) for kind, arguments in KINDS.items()}
    rows = {
        name: {"dims": v.dims, "depths": v.depths, "memory_width": 2 * v.dims[0], "baseline": v.baseline}
        | {kind: asdict(of[name]) for kind, of in costs.items()}
        for name, v in VARIANTS.items()
    }
    kernels = {name: {"serves": reason is None, "reason": reason} for name, reason in why_no_kernel().items()}
    return {"image_size": image_size, "variants": rows, "kernels": kernels}


def variants_table(image_size: int = 224, preset: str = "slots", state: str | None = None) -> Table:
    """Widths, tokens, parameters and MACs of the variants.

    Args:
        image_size: Height and width of the image.
        preset: Of the global branch.
        state: Another state of the memory than the preset's.
    """
    title = f"ConvNeur at {image_size} px, preset {preset}" + (f", {state} state" if state else "")
    table = Table(title=title, caption="parameters in millions, MACs in billions", **STYLE)
    for heading in ("variant", "widths", "tokens", "params", "MACs", "local", "memory", "rest"):
        table.add_column(heading, justify="left" if heading == "variant" else "right")
    arguments: dict[str, Any] = {"preset": preset} | ({"memory": {"state": state}} if state else {})
    for name, cost in variant_costs(image_size, **arguments).items():
        macs = (cost.macs, cost.macs_local, cost.macs_memory, cost.macs_rest)
        cells = _joined(VARIANTS[name].dims), _joined(cost.tokens), f"{cost.params / 1e6:.2f}"
        table.add_row(name, *cells, *(f"{n / 1e9:.3f}" for n in macs))
    return table


def kernels_table() -> Table:
    """Whether the CPU kernel of each operation serves on this machine, and if not, why."""
    table = Table("operation", "CPU kernel", **STYLE)
    for name, reason in why_no_kernel().items():
        table.add_row(name, "serves" if reason is None else f"does not serve: {reason}")
    return table


def _joined(numbers: Iterable[int]) -> str:
    return "/".join(map(str, numbers))
