"""Parts computed on Ray: a cluster, or several processes of this machine.

What goes through Ray is the number of a part; images are read, and parts written, where they are computed, so all
machines must see both folders under the same paths. Ray starts a worker that died anew and has it do its part again.
As a part appears when it is whole, and one that is there is not computed again, none is lost or doubled.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from convneur.data.bulk import BulkImages
from convneur.inference.embedder import Embedder
from convneur.inference.features import FeatureModel
from convneur.inference.parts import Done, Parts
from convneur.tasks.evaluation import device_for

if TYPE_CHECKING:
    from convneur.inference.embedding import EmbedConfig

try:
    import ray
    import ray.data
except ImportError as error:
    raise ImportError("--engine ray needs the package ray; pip install 'convneur[ray]'") from error

TRIES = 5  # after a worker has died so often at one part, that part is the reason
STORE_BYTES = 300_000_000  # for numbers of parts, a model, and names of images


class PartWorker:
    """Computes and writes parts in a process of Ray.

    Args:
        job: Reference to what `compute_on_ray` put there.
    """

    def __init__(self, job: list[Any]) -> None:
        images, model, parts, batch_size, workers, device, max_pixels = ray.get(job[0])
        self.images, self.parts = images, parts
        self.embedder = Embedder(images, model, parts, batch_size, workers, device_for(device), max_pixels)

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """A number -> the number, rows, and which images could not be read."""
        number = int(batch["number"][0])
        done = self.parts.find(number)  # there if a worker died between writing and telling
        if done is None:
            (part,) = self.embedder.compute([number])
            done = self.parts.write(part, self.images)
        told = np.empty(1, dtype=object)
        told[0] = json.dumps(done.unreadable)
        return {"number": np.array([number]), "rows": np.array([done.rows]), "unreadable": told}


def compute_on_ray(
    wanted: Sequence[int],
    parts: Parts,
    images: BulkImages,
    features: FeatureModel,
    config: EmbedConfig,
    advance: Callable[[int], object],
) -> Generator[Done, None, None]:
    """Compute and write parts; they come as they are ready, in no order.

    Raises:
        ConnectionError: If there is no cluster at the address.
        ValueError: If a GPU is asked for and the cluster has none.
        OSError: If a part cannot be computed or written, or its worker dies again and again.
    """
    with _connected(config):
        gpus = ray.cluster_resources().get("GPU", 0)
        if config.device == "cuda" and not gpus:
            raise ValueError("--device cuda: Ray knows of no GPU; leave it out, or give cpu")
        on_gpu = config.device in ("auto", "cuda") and gpus > 0
        workers = (4 if on_gpu else 0) if config.workers is None else config.workers  # a CPU decodes while it waits
        job = ray.put((images, features, parts, config.batch_size, workers, config.device, config.max_pixels))
        numbers = ray.data.from_items([{"number": n} for n in wanted], override_num_blocks=len(wanted))
        done = numbers.map_batches(
            PartWorker,
            fn_constructor_args=[[job]],  # in a list, or Ray would hand over what it refers to
            compute=ray.data.ActorPoolStrategy(size=min(config.ray_workers, len(wanted))),
            batch_size=1,
            num_cpus=max(1, workers),
            num_gpus=1 if on_gpu else None,
            max_restarts=-1,
            max_task_retries=TRIES,
        )
        try:
            for row in done.iter_rows():
                advance(len(parts.images(row["number"])))
                unreadable = [(name, reason) for name, reason in json.loads(row["unreadable"])]
                yield Done(row["number"], row["rows"], unreadable)
        except ray.exceptions.RayError as error:
            raise OSError(f"Ray could not go on: {_reason(error)}; the same command goes on from here") from error


@contextmanager
def _connected(config: EmbedConfig) -> Iterator[None]:
    """Ray, as it is if it runs in this process already; else a cluster, or one of this machine's own."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would tell its makers of each start
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if config.ray_address is not None:
            ray.init(address=config.ray_address, **quiet)
        else:
            cpus = max(os.cpu_count() or 1, config.ray_workers * max(1, config.workers or 0))  # or some never start
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=STORE_BYTES,
                **quiet,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = config.ray_address or "this machine"
        raise ConnectionError(f"no Ray at {where} ({_reason(error)}); give --ray-address, or leave it out") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def _reason(error: BaseException) -> str:
    """The last line of what Ray tells, which is what the worker said; the first 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
