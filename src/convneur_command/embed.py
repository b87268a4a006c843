"""``convneur embed``: features of millions of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro


def embed(
    source: Annotated[str, tyro.conf.Positional],
    model: str,
    out: Path = Path("runs/embed"),
    part_size: int = 4096,
    image_size: int | None = None,
    half: tyro.conf.FlagCreatePairsOff[bool] = False,
    max_megapixels: float = 100.0,
    max_unreadable: float = 0.01,
    batch_size: int = 64,
    workers: int | None = None,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    engine: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    ray_workers: int = 2,
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Compute pooled features of images and write them as parquet; the same command goes on where it was stopped.

    A classifier gives what its last layer sees, a detector or a segmentation model the mean over its backbone's last
    map.

    Args:
        source: Folder of images (searched to the bottom), parquet file with a column image, folder of such, a glob of
            either, or wds:FOLDER of WebDataset shards.
        model: Folder of a run or model, hf-hub:USER/NAME, or a timm name with pretrained weights.
        out: Folder for part-00000.parquet and so on, embed.json, and failed.jsonl if images could not be read.
        part_size: Images in a part, which is what is lost when a job is killed.
        image_size: Pixels a side; what the model was made for if not given.
        half: Keep float16 instead of float32.
        max_megapixels: Larger images count as unreadable.
        max_unreadable: Largest share of images that may be unreadable.
        batch_size: Images at a time.
        workers: Processes that decode images, for each model that computes; as many as suit the machine if not given.
        device: To compute on; auto takes a GPU if there is one.
        engine: local computes in this process, ray on a cluster or in several processes of this machine.
        ray_address: Of a cluster of Ray, or auto for the one this machine is in; one is started here if not given.
        ray_workers: Models that compute at the same time, with ray.
        overwrite: Replace what an earlier call wrote to --out; without it, results of other settings are refused.
    """
    from convneur.cli.common import tell_notes
    from convneur.printing import Console

    console = Console(stderr=True)
    with console.status("Loading PyTorch"):
        from convneur.embedding import EmbedConfig
        from convneur.embedding import embed as embed_images
        from convneur.embedding.job import Progress
        from convneur.printing import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from convneur.printing import Progress as Bar

    config = EmbedConfig(
        part_size,
        image_size,
        half,
        round(max_megapixels * 1e6),
        max_unreadable,
        batch_size,
        workers,
        device,
        engine,
        ray_address,
        ray_workers,
    )
    bar = Bar(
        TextColumn("embedding"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    loading = console.status(f"Loading {model} and looking for images")
    loading.start()

    def watch(progress: Progress) -> None:
        if not bar.tasks:
            loading.stop()
            bar.start()
            bar.add_task("", total=progress.total, completed=progress.done)  # earlier calls do not count as speed
        bar.update(bar.task_ids[0], completed=progress.done)

    try:
        done = embed_images(source, model, out, config, watch, overwrite)
    except KeyboardInterrupt as stop:
        told = f"{bar.tasks[0].completed:,.0f} images done" if bar.tasks else "nothing done"
        stop.args = (f"stopped, {told}; the same command goes on from the last whole part",)
        raise
    finally:
        loading.stop()
        if bar.tasks:
            bar.stop()
    tell_notes(done.notes, console)
    if done.unreadable:
        console.print(f"{len(done.unreadable)} images could not be read: {out / 'failed.jsonl'}")
    speed = f"{done.images_per_second:,.1f} images/s" if done.computed else "nothing was left to do"
    parts = "1 part" if done.parts == 1 else f"{done.parts:,} parts"
    Console().print(f"{done.rows:,} embeddings of {done.width} numbers in {parts}: {out}   ({speed})")
