"""Made-up scenes with a class for every pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ground", "disc", "bar")
COLOURS = np.array([[40, 90, 40], [200, 60, 60], [60, 60, 220]], np.uint8)


def scene(seed: int, height: int = 64, width: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """A picture (H, W, 3) and its classes (H, W): a disc and a bar on the ground, a corner that counts nowhere."""
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    labels = np.zeros((height, width), np.uint8)
    y, x = draw.integers(20, height - 20), draw.integers(20, width - 20)
    labels[(rows - y) ** 2 + (columns - x) ** 2 < 15**2] = 1
    left = draw.integers(5, width - 15)
    labels[:, left : left + 8] = 2
    picture = COLOURS[labels] + draw.integers(0, 30, (height, width, 3))
    labels[:6, :6] = 255
    return picture.astype(np.uint8), labels


def write_scenes(root: Path, train: int = 6, val: int = 3) -> Path:
    """Folders ``train`` and ``val``, each with ``images`` and ``masks``, and ``classes.txt``."""
    for split, count, start in (("train", train, 0), ("val", val, 100)):
        for part in ("images", "masks"):
            (root / split / part).mkdir(parents=True)
        for number in range(count):
            picture, labels = scene(start + number)
            Image.fromarray(picture).save(root / split / "images" / f"{number}.png")
            Image.fromarray(labels).save(root / split / "masks" / f"{number}.png")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return root
