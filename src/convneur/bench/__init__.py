"""What a model costs: operations, counted as they run, and time, measured side by side."""

from convneur.bench.macs import Cost, count_cost
from convneur.bench.memory import freed_memory_kept
from convneur.bench.throughput import inference_step, seconds_in_turn, throughput, times_in_turn, training_step

__all__ = [
    "Cost",
    "count_cost",
    "freed_memory_kept",
    "inference_step",
    "seconds_in_turn",
    "throughput",
    "times_in_turn",
    "training_step",
]
