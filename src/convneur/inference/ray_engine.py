"""Parts computed on Ray: a cluster, or several processes of this machine.

What goes through Ray is the number of a part; images are read, and parts written, where they are computed, so all
machines must see both folders under the same paths. Ray Data starts a worker that died anew and has it do its part
again, for ever if need be. As a part appears when it is whole, and one that is there is not computed again, none is
lost or doubled.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from convneur.data.unlabelled import UnlabelledImages
from convneur.inference.embedder import Embedder
from convneur.inference.features import FeatureModel
from convneur.inference.parts import Done, Parts
from convneur.interrupts import Interrupts
from convneur.tasks.evaluation import device_for

if TYPE_CHECKING:
    from convneur.inference.embedding import EmbedConfig

try:
    import ray
    import ray.data
except ImportError as error:
    raise ImportError("--engine ray needs the package ray; pip install 'convneur[ray]'") from error

DECODERS = 4  # processes that decode for a model on a GPU
TRIES = 5  # after a worker has died so often at one part, that part is the reason
STORE_BYTES = 300_000_000  # for numbers of parts, a model, and names of images
PATIENCE = 2.0  # seconds for threads of Ray Data to end in


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
        """A number -> what `told_of` reads; what a user can mend is told rather than raised, or Ray would wrap it."""
        number = int(batch["number"][0])
        try:
            told = json.dumps(self._done(number))
        except (OSError, torch.OutOfMemoryError) as error:
            told = json.dumps(str(error))
        return {"told": np.array([told], dtype=object)}

    def _done(self, number: int) -> Done:
        done = self.parts.find(number)  # there if a worker died between writing and telling
        if done is not None:
            return done
        if self.parts.count_try(number) > TRIES:
            where = [self.images.name(index) for index in self.parts.images(number)]
            raise OSError(f"workers died {TRIES} times at the images from {where[0]} to {where[-1]}; give more memory")
        (part,) = self.embedder.compute([number])
        return self.parts.write(part, self.images)


def told_of(text: str) -> Done:
    """What a worker told: a part, or an OSError with what went wrong."""
    told = json.loads(text)
    if isinstance(told, str):
        raise OSError(f"a worker of Ray could not go on: {told}")
    number, rows, unreadable = told
    return Done(number, rows, [(name, reason) for name, reason in unreadable])


def compute_on_ray(
    wanted: Sequence[int],
    parts: Parts,
    images: UnlabelledImages,
    features: FeatureModel,
    config: EmbedConfig,
    advance: Callable[[int], object],
) -> Generator[Done, None, None]:
    """Compute and write parts; they come as they are ready, in no order.

    Raises:
        ConnectionError: If there is no cluster at the address.
        ValueError: If a GPU is asked for and the cluster has none.
        OSError: If a part cannot be written, or its workers die again and again.
    """
    with Interrupts() as interrupts, _connected(config):
        interrupts.take_over()  # Ray's handler of SIGTERM would end the process in its own way
        gpus = ray.cluster_resources().get("GPU", 0)
        if config.device == "cuda" and not gpus:
            raise ValueError("--device cuda: Ray knows of no GPU; leave it out, or give cpu")
        on_gpu = config.device in ("auto", "cuda") and gpus > 0
        workers = (
            (DECODERS if on_gpu else 0) if config.workers is None else config.workers
        )  # a CPU decodes while it waits
        job = ray.put((images, features, parts, config.batch_size, workers, config.device, config.max_pixels))
        numbers = ray.data.from_items([{"number": n} for n in wanted], override_num_blocks=len(wanted))
        done = numbers.map_batches(
            PartWorker,
            fn_constructor_args=[[job]],  # in a list, or Ray would hand over what it refers to
            compute=ray.data.ActorPoolStrategy(size=min(config.ray_workers, len(wanted))),
            batch_size=1,
            num_cpus=max(1, workers),
            num_gpus=1 if on_gpu else None,
        )
        for row in done.iter_rows():
            part = told_of(row["told"])
            advance(len(parts.images(part.number)))
            yield part


@contextmanager
def _connected(config: EmbedConfig) -> Iterator[None]:
    """Ray, as it is if it runs in this process already; else a cluster, or one of this machine's own."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would tell its makers of each start
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it warns of each pool of Ray Data's
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if config.ray_address is not None:
            _knock(config.ray_address)
            ray.init(address=config.ray_address, **quiet)
        else:
            each = DECODERS if config.workers is None else max(1, config.workers)
            cpus = max(os.cpu_count() or 1, config.ray_workers * each)  # with fewer, some would never start
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=STORE_BYTES,
                **quiet,
            )
    except (OSError, RuntimeError, ValueError) as error:
        where, reason = config.ray_address or "this machine", str(error).strip().splitlines()[:1]
        raise ConnectionError(
            f"no Ray at {where} ({' '.join(reason)}); start one, or leave --ray-address out"
        ) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    others = set(threading.enumerate())
    try:
        yield
    finally:
        try:
            _let_end(set(threading.enumerate()) - others)
        finally:
            ray.shutdown()


def _let_end(threads: set[threading.Thread]) -> None:
    """Wait for threads that Ray Data started: one that is in a call of Ray's while that is shut down takes the process
    with it (ray-project/ray, issue 31145), and where an error ends a loop over rows some are."""
    deadline = time.monotonic() + PATIENCE
    for thread in threads - {threading.current_thread()}:
        if isinstance(thread, threading._DummyThread):  # not one of Python's, and it cannot be waited for
            continue
        thread.join(max(0.0, deadline - time.monotonic()))


def _knock(address: str) -> None:
    """An OSError where nobody answers, which Ray itself would take minutes to tell."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()
