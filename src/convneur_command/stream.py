"""``convneur stream``: an image of any size through a model, exactly, in bounded memory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro


def stream(
    image: Annotated[str, tyro.conf.Positional],
    model: str,
    out: Path = Path("runs/stream"),
    out_indices: tuple[int, ...] = (),
    memory_gb: float = 4.0,
    workers: int = 1,
    scratch: Path | None = None,
    float64: bool = False,
    fill: float | None = None,
    top_k: int = 3,
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> int:
    """Run a classifier or a Semantic FPN on an image larger than memory, as on the whole of it.

    A call that was killed goes on where it stopped when it is made again. Exit code 0.

    Args:
        image: TIFF of any layout (BigTIFF, OME, GeoTIFF), Zarr array or OME-Zarr, .npy file, or any other image.
        model: Folder of a run or model, hf-hub:USER/NAME, or a timm name with pretrained weights.
        out: Folder for what comes out: features.npy and logits.npy, or classes.npy and a preview.
        out_indices: Stages, from 0 as in timm, whose maps are kept: stage_0.npy and so on.
        memory_gb: Memory that may be used in all.
        workers: Strips at once.
        scratch: Folder for maps between, some 20 to 100 bytes per pixel; inside --out if not given.
        float64: Compute in double precision, which takes twice as long; not on a Mac's GPU, which has none.
        fill: What takes the place of missing pixels (NaN, infinite, no data), in numbers of the image; they are refused
            if not given.
        top_k: Answers of a classifier.
        overwrite: Replace what an earlier call wrote to --out; without it, results of other settings are refused.
    """
    from convneur.printing import Console, print_row, status

    with status("Loading PyTorch"):
        from convneur.streaming import stream_saved

    found = stream_saved(
        model,
        image,
        out,
        out_indices=out_indices,
        memory_limit=memory_gb * 1e9,
        workers=workers,
        scratch=scratch,
        float64=float64,
        fill=fill,
        top_k=top_k,
        overwrite=overwrite,
    )
    for name, share in found.answers:
        print_row(name, f"{share:.1%}")
    kinds = sorted(path.name for path in found.folder.iterdir() if path.suffix in (".npy", ".jpg"))
    done = "" if found.computed else "   (nothing was left to do)"
    Console(stderr=True).print(f"{found.folder}: {', '.join(kinds)}{done}")
    return 0
