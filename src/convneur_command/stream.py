"""``convneur stream``: an image of any size through a model, exactly, in bounded memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from convneur.data.semantic import MaskEncoding

PREVIEW = 1600  # pixels of the longer side


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
    from convneur.files import check_folder
    from convneur.outputs import OutputFolder
    from convneur.printing import Console, print_row

    console = Console(stderr=True)
    if top_k < 1:
        raise ValueError(f"--top-k {top_k} is out of range; give at least 1")
    out = out.expanduser()
    if scratch is not None:
        check_folder(scratch.expanduser(), f"--scratch {scratch}")
    with OutputFolder(out, "stream", overwrite):
        with console.status("Loading PyTorch"):
            import torch

            from convneur.inference import stream as run
            from convneur.models import load_model
            from convneur.tasks.evaluation import device_for
            from convneur.tasks.segmentation.saved import load_segmenter, segmenter_folder
        code = names = None
        loaded: Any
        with console.status(f"Loading {model}"):
            if segmenter_folder(model) is not None:
                saved = load_segmenter(model)
                loaded, code = saved.model, saved.code
            else:
                loaded, _, names = load_model(model)
        loaded = loaded.to(device_for("cpu" if float64 and not torch.cuda.is_available() else "auto"))
        if float64:
            loaded = loaded.double()
        found = run(
            loaded,
            image,
            out,
            out_indices=out_indices,
            memory_limit=memory_gb * 1e9,
            workers=workers,
            scratch=scratch,
            fill=fill,
            overwrite=overwrite,
        )
        if found.logits is not None:
            scores = found.logits.softmax(1)[0]
            best = scores.topk(min(top_k, len(scores)))
            for score, label in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                print_row(names[label] if names else str(label), f"{score:.1%}")
        if found.classes is not None and code is not None:
            _tell_classes(image, fill, found.classes, code, out)
        kinds = sorted(path.name for path in out.iterdir() if path.suffix in (".npy", ".jpg"))
        done = "" if found.computed else "   (nothing was left to do)"
        console.print(f"{out}: {', '.join(kinds)}{done}")
        return 0


def _tell_classes(image: str, fill: float | None, classes: Path, code: MaskEncoding, out: Path) -> None:
    """Share of each class, and a small picture to look at."""
    import numpy as np
    from PIL import Image

    from convneur.explain.segmenter import overlay
    from convneur.files import write_image
    from convneur.inference import open_large
    from convneur.inference.spans import Span
    from convneur.printing import print_row

    said = np.load(classes, mmap_mode="r", allow_pickle=False)
    counts = np.zeros(256, np.int64)
    for top in range(0, len(said), 1024):
        counts += np.bincount(said[top : top + 1024].ravel(), minlength=256)
    for number in np.argsort(-counts)[: len(code.classes)]:
        if counts[number]:
            print_row(code.classes[number], f"{counts[number] / said.size:.1%}")
    step = -(-max(said.shape) // PREVIEW)
    source = open_large(image, fill)
    rows = [source.read(Span(row, row + 1), 3)[0, ::step] for row in range(0, source.height, step)]
    picture = Image.fromarray((np.stack(rows) * 255).round().astype(np.uint8))
    write_image(out / "preview.jpg", overlay(picture, np.ascontiguousarray(said[::step, ::step]), code), quality=85)
