"""How far streaming is from the whole image, for every kind of memory: features of all stages, and logits.

    python benchmarks/streaming_exact.py --photos imagenette/train.parquet --out docs/results/streaming/exact.json

The image is 2048 x 3072 px of photographs side by side; tiles have 37 rows and 61 columns of each stage's map. The
model is new but for its gates, which say something, and a layer scale of 1/2, so that differences show. A new memory
that is written in chunk after chunk with large steps diverges on so large an image; those of chunks have steps of at
most 0.02. Beside stands how far the whole is from itself when each pixel is moved to the next number there is: what
rounding does. What is refused in float32 is tried in float64.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

import convneur
from convneur.streaming import stream
from streaming import load_photos

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build(name: str, **arguments: Any) -> convneur.ConvNeur:
    torch.manual_seed(0)
    model = convneur.create_model(name, num_classes=100, ls_init_value=0.5, **arguments).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "global_branch.up" in key:
                parameter.normal_(std=0.05)
    return model


def modes() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {"no memory": {"global_placement": "none"}, "published": {"preset": "published"}}
    for state, read, anchor, size in product(
        ("linear", "mlp"), ("global", "causal"), ("initial", "previous"), (None, 196)
    ):
        if size is not None or read == "global":
            memory = {"state": state, "read": read, "anchor": anchor, "chunk_size": size}
            found[f"{state}, {read}, {anchor}, {size}"] = {
                "memory": memory | ({"max_step": 0.02} if size is not None else {})
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--model", default="convneur_m1")
    parser.add_argument("--size", type=int, nargs=2, default=[2048, 3072])
    parser.add_argument("--tile", type=int, nargs=2, default=[37, 61])
    parser.add_argument("--only", default="", help="memories whose name has this in it")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    photos, draw = load_photos(given.photos), np.random.default_rng(0)
    tall, wide = (-(-side // photos[0].shape[0]) for side in given.size)
    drawn = [np.concatenate([photos[k] for k in draw.integers(0, len(photos), wide)], 1) for _ in range(tall)]
    pixels = np.concatenate(drawn)[: given.size[0], : given.size[1]]
    mean, std = (torch.tensor(each, dtype=torch.float64)[:, None, None] for each in (MEAN, STD))
    wanted = {name: each for name, each in modes().items() if given.only in name}
    rows: list[dict[str, Any]] = []
    for (name, arguments), kind in product(wanted.items(), (torch.float32, torch.float64)):
        if rows and rows[-1]["memory"] == name and "refused" not in rows[-1]:
            continue
        model = build(given.model, **arguments).to(kind)
        x = ((torch.from_numpy(pixels.copy()).permute(2, 0, 1).to(kind) / 255 - mean.to(kind)) / std.to(kind))[None]
        with torch.inference_mode():
            last, maps = model.forward_intermediates(x)
            logits = model.forward_head(last)
            moved = model.forward_intermediates(torch.nextafter(x, x.new_full((), torch.inf)), intermediates_only=True)
        told: dict[str, Any] = {
            "memory": name,
            "kind": str(kind),
            "largest": [float(each.abs().max()) for each in maps],
            "maps_by_rounding": [float((each - other).abs().max()) for each, other in zip(maps, moved, strict=True)],
        }
        try:
            with tempfile.TemporaryDirectory() as folder:
                found = stream(model, pixels, folder, out_indices=range(4), tile=given.tile, progress=False)
                assert found.logits is not None
                told["logits"] = float((found.logits - logits).abs().max())
                told["maps"] = [
                    float(np.abs(np.load(found.maps[i], mmap_mode="r") - maps[i][0].permute(1, 2, 0).numpy()).max())
                    for i in range(4)
                ]
        except ValueError as error:
            told["refused"] = str(error)
        rows.append(told)
        print(told, flush=True)
    facts = {"model": given.model, "size": given.size, "tile": given.tile, "rows": rows}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
