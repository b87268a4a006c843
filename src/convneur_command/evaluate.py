"""``convneur eval``: judge a classifier, a detector or a segmentation model on labelled images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import tyro


def eval_(
    model: str,
    data: str,
    out: Path = Path("runs/eval"),
    image_size: int | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    val_share: float | None = None,
    seed: int | None = None,
    max_megapixels: float = 100.0,
    window: int | None = None,
    scales: tuple[float, ...] | None = None,
    flip: tyro.conf.FlagCreatePairsOff[bool] = False,
    part: Literal["val", "test"] = "val",
    trust: tyro.conf.FlagCreatePairsOff[bool] = False,
    allow_remote: tyro.conf.FlagCreatePairsOff[bool] = False,
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Judge a model on labelled images.

    A classifier: top-1, top-5, per class, calibration, other image sizes. A detector: average precision of boxes and
    masks, per class, the worst misses as pictures, and all detections in COCO's form. A segmentation model: mIoU, per
    class, boundaries, confusion matrix, the worst images.

    Args:
        model: Folder of a run or model, hf-hub:USER/NAME, a timm name with pretrained weights, or a
            file of convneur export.
        data: As for convneur train. Its validation images are judged by; where it has none, what was held out if the
            model learned from the same --data, and else all training images. See --part for test images.
        out: Folder for metrics.json and report.html.
        image_size: Pixels a side, of a detector's or segmentation model's images the shorter one (0: of the latter, as
            they are); what the model was made for if not given. A classifier is tried at 0.75 and 1.5 times that, too.
        batch_size: Images at a time, for a classifier.
        workers: Processes that load images; as many as suit the machine if not given.
        val_share: Share that is judged by where the data has no validation images, if not as said above.
        seed: Of that share; that of training if not given.
        max_megapixels: Larger images count as unreadable.
        window: Of a segmentation model: pixels a side of tiles that are looked at one by one; 0 for whole images.
        scales: Of a segmentation model: factors over which answers are averaged.
        flip: Of a segmentation model: average over the mirrored image, too.
        part: To judge by: what the data calls validation, or what it calls test, which training leaves alone.
        trust: Load a .pt2 of convneur export, which runs the code in it: only for files from people you trust. Other
            models need none.
        allow_remote: Read shards from the addresses, and run the commands of the pipe: sources, that a classifier's
            data names; only for data of people you trust with your account.
        overwrite: Replace what an earlier call wrote to --out; without it, results of other settings are refused.
    """
    from convneur.cli.common import check_size, model_identity, tell_missing, tell_notes, tell_whole
    from convneur.notes import files_hash, resolved
    from convneur.outputs import OutputFolder
    from convneur.printing import Console

    console = Console(stderr=True)
    made_from = {
        "model": model_identity(model),
        "data": [resolved(data), files_hash(resolved(data).removeprefix("hf:").removeprefix("wds:"))],
        "image_size": image_size,
        "share": [val_share, seed, part],
        "max_megapixels": max_megapixels,
        "inference": [window, scales, flip],
    }
    with OutputFolder(out, "eval", overwrite) as folder:
        folder.check(made_from)
        with console.status("Loading PyTorch"):
            from convneur.cli.judging import judge, tell, write_judged
            from convneur.cli.run_data import run_data_of
            from convneur.data.known_classes import images_of, judged_classes
            from convneur.data.sources import open_source
            from convneur.data.transforms import Preprocessing
            from convneur.export import open_model
            from convneur.models.prepare_for_inference import prepare_for_inference
            from convneur.tasks.detection.saved import detector_folder
            from convneur.tasks.evaluation import device_for
            from convneur.tasks.segmentation.saved import segmenter_folder

        command = " ".join(["convneur", *sys.argv[1:]])
        max_pixels = round(max_megapixels * 1e6)
        run = run_data_of(Path(model))
        share, chosen = run.share(data, val_share, seed)
        if detector_folder(model) is not None:
            from convneur.cli.detecting import evaluate_saved

            check_size(image_size)
            return evaluate_saved(
                model, data, folder, console, command, image_size, workers, max_pixels, share, chosen, part, run
            )
        if segmenter_folder(model) is not None:
            from convneur.cli import segmenting

            check_size(image_size, least=0)
            changes = segmenting.changes_of(image_size, window, scales, flip)
            return segmenting.evaluate_saved(
                model,
                data,
                folder,
                console,
                command,
                changes,
                workers,
                max_pixels,
                share,
                chosen,
                part,
                run,
            )
        check_size(image_size)
        with console.status(f"Loading {model}"):
            loaded, config, labels = open_model(model, trust)
        source = open_source(data, share, chosen, allow_remote, part, learns=False)
        tell_notes(source.notes, console)
        if labels is not None:
            source = images_of(source, labels)
        if config["num_classes"] != len(source.classes):
            raise ValueError(
                f"the model has {config['num_classes']} classes and the data {len(source.classes)}; give data that fits"
            )
        source = run.not_learned(source, data, console)
        tell_whole(source, console)
        tell_missing(source.classes, judged_classes(source), console)
        preprocessing = Preprocessing.of(config, image_size)
        judged = judge(
            prepare_for_inference(loaded, device_for()),
            Path(model).name,
            source,
            preprocessing,
            console,
            batch_size=batch_size,
            workers=workers,
            max_pixels=max_pixels,
        )
        folder.start()
        write_judged(out, judged, command)
        folder.finish()
        return tell(judged, f"Report: {out / 'report.html'}   numbers: {out / 'metrics.json'}")
