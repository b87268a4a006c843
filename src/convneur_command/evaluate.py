"""``convneur eval``: judge a classifier, a detector or a segmentation model on labelled images."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro

from convneur_options.use import EvaluateOptions

DEFAULTS = EvaluateOptions()


def eval_(
    model: str,
    data: str,
    out: Path = Path("runs/eval"),
    trust: tyro.conf.FlagCreatePairsOff[bool] = False,
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False,
    options: Annotated[EvaluateOptions, tyro.conf.arg(name=""), tyro.conf.FlagCreatePairsOff] = DEFAULTS,
) -> None:
    """Judge a model on labelled images.

    A classifier: top-1, top-5, per class, calibration, other image sizes. A detector: average precision of boxes and
    masks, per class, the worst misses as pictures, and all detections in COCO's form. A segmentation model: mIoU, per
    class, boundaries, confusion matrix, the worst images.

    Args:
        model: Folder of a run or model, hf-hub:USER/NAME, a timm name with pretrained weights, a file of convneur
            export, or a .safetensors or .ckpt file of a finished run.
        data: As for convneur train. Its validation images are judged by; where it has none, what was held out if the
            model learned from the same --data, and else all training images. See --part for test images.
        out: Folder for metrics.json, predictions.csv and report.html.
        trust: Load a .pt2 of convneur export, which runs the code in it: only for files from people you trust. Other
            models need none.
        overwrite: Replace what an earlier call wrote to --out; without it, results of other settings are refused.
        options: How it is judged.
    """
    from convneur.printing import Console

    with Console(stderr=True).status("Loading PyTorch"):
        from convneur.api import evaluate

    command = " ".join(["convneur", *sys.argv[1:]])
    result = evaluate(model, data, out, trust=trust, overwrite=overwrite, command=command, **asdict(options))
    out = out.expanduser()
    result.show(f"Report: {out / 'report.html'}   numbers: {out / 'metrics.json'}")
