"""The coefficients of GELU in ``src/convneur/ops/csrc/local_branch.c``, and how far they are off.

The upper tail of the normal distribution is fitted by a polynomial on [0, 5.5], so that ``size`` times its error, which
is what GELU is off by, is as small as it gets at its largest (Lawson's algorithm: least squares, weighted anew by what
is off).

    python benchmarks/gelu_tail.py
"""

from __future__ import annotations

import math

import numpy as np

FAR, DEGREE, PLACES, ROUNDS = 5.5, 16, 4000, 300


def main() -> None:
    """Fit, and print."""
    place = np.cos(np.linspace(0, np.pi, PLACES))  # of 2 size / FAR - 1
    size = (place + 1) * FAR / 2
    tail = np.array([0.5 * math.erfc(each / math.sqrt(2)) for each in size])
    weight = np.maximum(size, 0.05)
    powers = np.polynomial.chebyshev.chebvander(place, DEGREE)
    share = np.ones(PLACES)
    for _ in range(ROUNDS):
        root = np.sqrt(share) * weight
        fitted = np.linalg.lstsq(powers * root[:, None], tail * root, rcond=None)[0]
        share *= np.abs((powers @ fitted - tail) * weight) + 1e-18
        share /= share.sum()
    print("off by", np.abs((powers @ fitted - tail) * size).max())
    for coefficient in np.polynomial.chebyshev.cheb2poly(fitted).astype(np.float32):
        print(coefficient)


if __name__ == "__main__":
    main()
