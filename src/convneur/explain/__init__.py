"""Seeing inside: gate maps, and reports people can open in a browser."""

from convneur.explain.gates import gate_maps
from convneur.explain.report import write_report

__all__ = ["gate_maps", "write_report"]
