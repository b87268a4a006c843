"""``convneur export``: a model as a file for another runtime, checked and timed."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from PIL import Image

TOLERANCE = 1e-4


def export(
    model: Annotated[str, tyro.conf.Positional],
    format: Literal["onnx", "torch", "aoti", "openvino"] = "onnx",
    out: Path | None = None,
    images: tuple[str, ...] = (),
    image_size: int | None = None,
    fuse: bool = True,
    dynamic: bool = True,
    rounds: int = 15,
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Write a model for another runtime, with its labels and preprocessing; check it on photographs, and time it.

    The file is loaded again and must agree with PyTorch to 1e-4 at three sizes and two batches, else it is taken away.
    convneur predict and eval take it for a model.

    Args:
        model: Folder of a run or model, hf-hub:USER/NAME, or a timm name. Names of ours have no trained
            weights yet: they are exported with random ones, to be measured.
        format: onnx for ONNX Runtime and others; torch for a torch.export program; aoti for a package compiled for this
            machine; openvino.
        out: The file; runs/export/NAME and the format's suffix if not given.
        images: Files, folders or globs of photographs to check with; two of scikit-learn's if none.
        image_size: Pixels a side that the file is for; what the model was made for if not given.
        fuse: Fold beforehand what does not depend on the image.
        dynamic: For images of any size; turn it off for models that cannot be traced so. The batch is always free.
        rounds: Turns of each when timing; 0 for none.
        json_: Print the figures as JSON, too.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with console.status("Loading PyTorch"):
        import torch

        from convneur.bench import inference_step, times_in_turn
        from convneur.bench.throughput import spread
        from convneur.data.transforms import Preprocessing
        from convneur.explain.report import versions
        from convneur.export import FORMATS, Facts, agreement, export_model, load_exported
        from convneur.export.check import BATCHES, photo_batches, sizes_to_check
        from convneur.export.formats import format_of

    loaded, config, labels = _load(model, console)
    if image_size is not None:
        config |= {"input_size": (config["input_size"][0], image_size, image_size)}
    dynamic = dynamic and not config.get("fixed_input_size")
    photos = _photos(images)
    path = out or Path("runs/export") / f"{Path(model.rstrip('/')).name.replace(':', '-')}{FORMATS[format].suffix}"
    if format_of(path) != format:
        raise ValueError(
            f"--out {path} and --format {format} do not fit; its name should end in {FORMATS[format].suffix}"
        )
    with console.status(f"Exporting to {path}"):
        export_model(loaded, path, Facts(config, labels), fuse, dynamic)
        exported = load_exported(path).model
    preprocessing = Preprocessing.of(config)
    sizes = sizes_to_check(preprocessing.input_size[1:], dynamic)
    rows: list[dict[str, Any]] = []
    with Progress(console=console, transient=True) as progress:
        batches = photo_batches(photos, preprocessing, sizes)
        for batch in progress.track(batches, len(sizes) * len(BATCHES), description="Checking"):
            row = asdict(agreement(loaded, exported, batch))
            if rounds:
                steps = {"eager": inference_step(loaded, batch), format: inference_step(exported, batch)}
                times = times_in_turn(steps, torch.device("cpu"), rounds)
                row["milliseconds"] = {name: [1e3 * x for x in spread(found)] for name, found in times.items()}
            rows.append(row)
    files = [path, path.with_suffix(".bin")] if format == "openvino" else [path]
    size = sum(file.stat().st_size for file in files)
    worst = max(row["difference"] for row in rows)
    if not worst <= TOLERANCE:
        for file in files:
            file.unlink()
        raise ValueError(
            f"the exported model differs from PyTorch by {worst:.1e}, and should by no more than {TOLERANCE:.0e}; "
            "it was taken away; try another --format, or --no-fuse"
        )
    if json_:
        facts = {"command": " ".join(["convneur", *sys.argv[1:]]), "threads": torch.get_num_threads()}
        told = {"model": model, "format": format, "file": str(path), "bytes": size}
        print(json.dumps(told | facts | {"versions": versions(), "rows": rows}, indent=1))  # noqa: T201
    console.print(_table(rows, format))
    console.print(f"{path}   {size / 1e6:.1f} MB   {_told(labels, preprocessing)}", soft_wrap=True)
    return 0


def _load(model: str, console: Any) -> Any:
    """A trained model; one of ours with random weights if that is all there is."""
    from torch import nn

    from convneur.layers import GlobalBranch
    from convneur.models import VARIANTS, Loaded, create_model, load_model

    if model not in VARIANTS:
        return load_model(model)
    console.print(f"{model} has no trained weights: what is exported can be measured, but knows nothing")
    made = create_model(model).eval()
    for branch in made.modules():
        if isinstance(branch, GlobalBranch):  # its answers begin at zero, and would not be checked
            for up in (branch.up, branch.up_shift):
                nn.init.trunc_normal_(up.weight, std=0.02) if up is not None else None
    return Loaded(made, dict(made.pretrained_cfg), None)


def _photos(paths: tuple[str, ...]) -> list[Image.Image]:
    from convneur.cli.predict import find_images
    from convneur.data.decode import decode_image
    from convneur.data.photos import SAMPLES, sample_image

    if not paths:
        return [sample_image(name) for name in SAMPLES]
    return [decode_image(file) for file in find_images(paths)[:4]]


def _table(rows: list[dict[str, Any]], format: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("px", "batch", "difference", "eager ms", "quartiles", f"{format} ms", "quartiles"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        height, width = row["size"]
        times = [
            text
            for middle, low, high in row.get("milliseconds", {}).values()
            for text in (f"{middle:.1f}", f"{low:.1f}-{high:.1f}")
        ]
        table.add_row(f"{height} x {width}", str(row["batch"]), f"{row['difference']:.1e}", *times)
    return table


def _told(labels: Any, preprocessing: Any) -> str:
    known = f"{len(labels)} labels" if labels else "no labels"
    size = "x".join(map(str, preprocessing.input_size[1:]))
    return f"carries {known} and its preprocessing ({size} px, mean {preprocessing.mean}, std {preprocessing.std})"
