"""Time and memory of exact inference on images larger than memory, and what a job that was killed gives.

    python benchmarks/streaming.py --photos imagenette/train.parquet --sides 5000 10000 20000 --rounds 3 --kill \\
        --out docs/results/streaming/cost.json

Images are made of photographs of a parquet file, side by side, as uncompressed BigTIFF. Each is run in a process of its
own, whose largest resident memory the operating system tells; sizes take turns. With ``--kill`` the largest is run once
more, killed when half of its time is over, and gone on with; all that comes out must be the same bytes.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import tifffile
from PIL import Image

TILE = 250
JOB = """
import json, sys, torch
from pathlib import Path
import convneur
from convneur.streaming import stream

torch.manual_seed(0)
model = convneur.create_model(sys.argv[1], num_classes=10, ls_init_value=0.5).eval()
with torch.no_grad():  # a new branch says the same about every image
    for name, parameter in model.named_parameters():
        if "global_branch.up" in name:
            parameter.normal_(std=0.05)
found = stream(model, sys.argv[2], sys.argv[3], out_indices=(3,), memory_limit=float(sys.argv[4]), progress=False)
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps({"seconds": found.seconds, "resident_gb": int(status["VmHWM"].split()[0]) * 1024 / 1e9}))
"""


def make_image(path: Path, side: int, photos: list[Any]) -> None:
    draw = np.random.default_rng(0)
    image = tifffile.memmap(path, shape=(side, side, 3), dtype=np.uint8, photometric="rgb", bigtiff=True)
    for top in range(0, side, TILE):
        row = np.concatenate([photos[k] for k in draw.integers(0, len(photos), -(-side // TILE))], 1)
        image[top : top + TILE] = row[: side - top, :side]
    image.flush()


def load_photos(path: Path, count: int = 400) -> list[Any]:
    rows = pq.ParquetFile(path).iter_batches(count, columns=["image"])
    found = next(rows)["image"].to_pylist()
    return [
        np.asarray(
            Image.open(io.BytesIO(each["bytes"] if isinstance(each, dict) else each))
            .convert("RGB")
            .resize((TILE, TILE))
        )
        for each in found
    ]


def steps_done(out: Path) -> int:
    return sum(path.read_text().count("\n") for path in out.glob(".convneur-scratch-*/journal.txt"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--sides", type=int, nargs="+", default=[5000, 10000, 20000])
    parser.add_argument("--model", default="convneur_m1")
    parser.add_argument("--limit-gb", type=float, default=3.5)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--scratch", type=Path, help="folder with room for 20 bytes per pixel")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    photos = load_photos(given.photos)
    rows: list[dict[str, Any]] = [{"side": side, "all_seconds": [], "resident_gb": 0.0} for side in given.sides]
    killed = None
    with tempfile.TemporaryDirectory(dir=given.scratch) as name:
        for side in given.sides:
            make_image(Path(name, f"{side}.tif"), side, photos)
        for _, row in itertools.product(range(given.rounds), rows):
            image, out = (Path(name, f"{row['side']}{end}") for end in (".tif", ""))
            command = [sys.executable, "-c", JOB, given.model, str(image), str(out), str(given.limit_gb * 1e9)]
            told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            print(row["side"], told, flush=True)
            row["all_seconds"].append(told["seconds"])
            row["resident_gb"] = max(row["resident_gb"], told["resident_gb"])
        if given.kill:
            killed = kill_and_go_on(command, out)
            print(killed, flush=True)
    for row in rows:
        row["seconds"] = statistics.median(row["all_seconds"])
    for smaller, larger in itertools.pairwise(rows):
        larger["exponent"] = math.log(larger["seconds"] / smaller["seconds"]) / math.log(
            (larger["side"] / smaller["side"]) ** 2
        )
        print(larger["side"], "exponent", larger["exponent"])
    facts = {"model": given.model, "limit_gb": given.limit_gb, "rows": rows, "killed": killed}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(facts, indent=2) + "\n")


def kill_and_go_on(command: list[str], out: Path) -> dict[str, Any]:
    """Run the same job, kill it half-way in time, and let it go on; compare what comes out with what was there."""
    again = out.with_name(f"{out.name}again")
    command = [str(again) if word == str(out) else word for word in command]
    half = json.loads((out / "stream.json").read_text())["seconds"] / 2
    job = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    while not steps_done(again):
        time.sleep(0.1)
    time.sleep(half)
    os.killpg(job.pid, signal.SIGKILL)
    killed = job.wait() == -signal.SIGKILL
    done = steps_done(again)
    told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    names = ("features.npy", "logits.npy", "stage_3.npy")
    same = all((out / each).read_bytes() == (again / each).read_bytes() for each in names)
    return {
        "killed": killed,
        "steps_done_before": done,
        "seconds_after": told["seconds"],
        "same_bytes": same,
        "resident_gb": told["resident_gb"],
    }


if __name__ == "__main__":
    main()
