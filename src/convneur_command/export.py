"""``convneur export``: a model as a file for another runtime, checked and timed."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from PIL import Image


def export(
    model: Annotated[str, tyro.conf.Positional],
    format: Literal["onnx", "torch", "aoti", "openvino"] = "onnx",
    out: Path | None = None,
    images: tuple[str, ...] = (),
    image_size: int | None = None,
    dynamic: bool = True,
    keep_ops: tyro.conf.FlagCreatePairsOff[bool] = False,
    rounds: int = 15,
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False,
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> int:
    """Write a model for another runtime, with its labels and preprocessing; check it on photographs, and time it.

    The file is loaded again and must agree with PyTorch to 1e-4 at three sizes and two batches, else it is not kept.
    convneur predict and eval take it for a model, a .pt2 with --trust, because loading one runs code that is in it.

    Args:
        model: Folder of a run or model, hf-hub:USER/NAME, or a timm name. Names of ours have no trained
            weights yet: they are exported with random ones, to be measured.
        format: onnx for ONNX Runtime and others; torch for a torch.export program; aoti for a package compiled for this
            machine; openvino.
        out: The file; runs/export/NAME and the format's suffix if not given.
        images: Files, folders or globs of photographs to check with; two of scikit-learn's if none.
        image_size: Pixels a side that the file is for; what the model was made for if not given.
        dynamic: For images of any size; turn it off for models that cannot be traced so. The batch is always free.
        keep_ops: Let a .pt2 (--format torch) call ConvNeur's operations by name, for their CPU kernels. PyTorch needs
            import convneur to load such a file.
        rounds: Turns of each when timing; 0 for none.
        json_: Print the figures as JSON, too.
        overwrite: Replace what an earlier call wrote; without it, a file of other settings is refused.
    """
    from convneur.notes import AlreadyDone, files_hash, model_identity
    from convneur.outputs import OutputFile
    from convneur.printing import Console, Progress, print_json

    console = Console(stderr=True)
    if rounds < 0 or (image_size is not None and image_size < 1):
        raise ValueError("--rounds must be 0 or more, and --image-size 1 or more")
    with console.status("Loading PyTorch"):
        import torch

        from convneur.bench import inference_step, times_in_turn
        from convneur.bench.throughput import spread
        from convneur.data.transforms import Preprocessing
        from convneur.export import (
            FORMATS,
            ExportMetadata,
            Runtime,
            agreement,
            export_model,
            require_agreement,
            untrained,
        )
        from convneur.export.check import BATCHES, photo_batches, sizes_to_check
        from convneur.export.formats import format_of
        from convneur.models import load_model
        from convneur.reports.page import versions

    chosen = FORMATS[format]
    path = (out or Path("runs/export") / f"{_name(model)}{chosen.suffix}").expanduser()
    if not path.name.endswith(chosen.suffix) or format_of(path) != format:
        raise ValueError(f"--out {path} and --format {format} do not fit; its name should end in {chosen.suffix}")
    made_from = {
        "model": model_identity(model),
        "image_size": image_size,
        "check_images": [*images, files_hash(*images)],
        "dynamic": dynamic,
        "keep_ops": keep_ops,
    }
    if keep_ops and format != "torch":
        raise ValueError(f"--keep-ops is for --format torch, and not for {format}; leave one of them out")
    with OutputFile(chosen.files(path), "export", overwrite) as target:
        try:
            target.check(made_from)
        except AlreadyDone as done:
            if json_:
                print_json(done.told, indent=1)
            raise
        photos = _photos(images)
        ours = model.startswith("convneur_m") and not Path(model).exists()
        with console.status(f"Loading {model}"):
            chosen.require()
            loaded, config, labels = untrained(model) if ours else load_model(model)
        if image_size is not None:
            config |= {"input_size": (config["input_size"][0], image_size, image_size)}
        preprocessing = Preprocessing.of(config)
        rows: list[dict[str, Any]] = []
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task(f"Exporting to {path}", total=None)

            def check(exported: Runtime) -> None:
                sizes = sizes_to_check(exported.pretrained_cfg)
                progress.update(task, description="Checking", total=len(sizes) * len(BATCHES))
                for batch in photo_batches(photos, preprocessing, sizes):
                    found = agreement(loaded, exported, batch)
                    require_agreement(found)
                    rows.append(asdict(found))
                    if rounds:
                        steps = {"eager": inference_step(loaded, batch), format: inference_step(exported, batch)}
                        times = times_in_turn(steps, torch.device("cpu"), rounds)
                        rows[-1]["milliseconds"] = {
                            name: [1e3 * x for x in spread(each)] for name, each in times.items()
                        }
                    progress.advance(task)

            any_size = dynamic and not config.get("fixed_input_size")
            files = export_model(loaded, path, ExportMetadata(config, labels), any_size, keep_ops, check)
        size = sum(file.stat().st_size for file in files)
        facts: dict[str, Any] = {"command": " ".join(["convneur", *sys.argv[1:]]), "threads": torch.get_num_threads()}
        facts |= {
            "model": model,
            "format": format,
            "file": str(path),
            "bytes": size,
            "versions": versions(),
            "rows": rows,
        }
        target.finish(facts)
        if json_:
            print_json(facts, indent=1)
        console.print(_table(rows, format))
        console.print(f"{path}   {size / 1e6:.1f} MB   {_told(labels, preprocessing)}")
        if ours:
            console.print(f"{model} has no trained weights: the file can be measured, but knows nothing")
        return 0


def _name(model: str) -> str:
    """What to call the file: the folder's name, or the last part of the model's."""
    folder = Path(model).expanduser()
    return folder.resolve().name if folder.exists() else model.rsplit("/", 1)[-1].replace(":", "-")


def _photos(paths: tuple[str, ...]) -> list[Image.Image]:
    from convneur.data.decode import decode_image
    from convneur.data.photos import SAMPLES, sample_image
    from convneur.data.pictures import find_images

    if not paths:
        try:
            return [sample_image(name) for name in SAMPLES]
        except ImportError as error:
            raise ImportError(f"{error}, or give --images") from error
    photos = []
    for file in find_images(paths)[:4]:
        try:
            photos.append(decode_image(file))
        except ValueError as error:
            raise ValueError(f"{file} cannot be read ({error}); give other --images") from error
    return photos


def _table(rows: list[dict[str, Any]], format: str) -> Any:
    from convneur.printing import Table, box

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    timed = ("eager ms", "quartiles", f"{format} ms", "quartiles") if "milliseconds" in rows[0] else ()
    for heading in ("px", "batch", "difference", *timed):
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
