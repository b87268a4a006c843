"""What a model costs: operations, counted as they run, and time, measured side by side."""

from convneur.bench.macs import Cost, count_cost
from convneur.bench.throughput import throughput

__all__ = ["Cost", "count_cost", "throughput"]
