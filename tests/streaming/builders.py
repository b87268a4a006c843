"""Noise to stream."""

import numpy as np


def picture(height, width, channels=3, seed=0):
    """Noise, (H, W, C)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
