"""Seeing inside: gates and memories, receptive fields, and reports people can open in a browser."""

from convneur.explain.gate_ablation import GateAblation, ablate_gates
from convneur.explain.gates import gate_maps
from convneur.explain.inspection import Inspection, StageInspection, inspect
from convneur.explain.receptive import receptive_fields

__all__ = [
    "GateAblation",
    "Inspection",
    "StageInspection",
    "ablate_gates",
    "gate_maps",
    "inspect",
    "receptive_fields",
]
