"""``convneur export``: a model as a file for another runtime, checked and timed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro


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
    Of a segmentation model the file gives logits and the class of each pixel; detectors cannot be exported yet.

    Args:
        model: Folder of a run or model (classifier or segmentation model), hf-hub:USER/NAME, or a timm name. Names of
            ours have no trained weights yet: they are exported with random ones, to be measured.
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
    from convneur.notes import AlreadyDone
    from convneur.printing import Console, print_json, status

    with status("Loading PyTorch"):
        from convneur.export.checked import export_checked
        from convneur.tasks.exportable import open_exportable

    command = " ".join(["convneur", *sys.argv[1:]])
    try:
        done = export_checked(
            *(model, format, out, images, image_size, dynamic, keep_ops, rounds, overwrite),
            command=command,
            open_named=open_exportable,
        )
    except AlreadyDone as there:
        if json_:
            print_json(there.told, indent=1)
        raise
    if json_:
        print_json(done.facts, indent=1)
    console = Console(stderr=True)
    console.print(done.table())
    console.print(done.line())
    if not done.is_trained:
        console.print(f"{model} has no trained weights: the file can be measured, but knows nothing")
    return 0
