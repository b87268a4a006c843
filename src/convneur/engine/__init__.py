"""The training loop, on Lightning; it knows neither tasks nor models."""

from convneur.engine.fit import Curve, Interrupted, fit
from convneur.engine.optim import OptimConfig, cosine_with_warmup

__all__ = ["Curve", "Interrupted", "OptimConfig", "cosine_with_warmup", "fit"]
