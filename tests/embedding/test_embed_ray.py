"""Features computed on Ray are those computed here, to the bit, and a worker that dies loses and doubles nothing."""

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from convneur.embedding import EmbedConfig, embed
from convneur.embedding.shard_writer import ShardWriter
from tests.embedding import builders

SMALL = {"part_size": 2, "batch_size": 2, "image_size": 64, "workers": 0, "device": "cpu", "max_unreadable": 0.2}


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A model, photographs of which some are spoilt, and their features as computed here."""
    root = tmp_path_factory.mktemp("ray")
    model = builders.saved_model(root / "model")
    source = builders.photo_folder(root / "photos", 120)
    builders.spoil(source)
    embed(str(source), str(model), root / "here", EmbedConfig(**SMALL))
    return str(source), str(model), root / "here"


@pytest.fixture
def _no_ray_left():
    ray = pytest.importorskip("ray")
    yield
    assert not ray.is_initialized()


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def workers_of(process: int) -> list[int]:
    """Processes of Ray that compute parts and stem from a process."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            if b"ShardWorker" not in (entry / "cmdline").read_bytes():
                continue
            above = int(entry.name)
            while above not in (0, process):
                above = parent_of(above)
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        if above == process:
            found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the workers of Ray are found in /proc")
@pytest.mark.usefixtures("_no_ray_left")
def test_a_worker_that_is_killed_loses_and_doubles_nothing(job, tmp_path):
    source, model, here = job
    killed = []
    parts = []

    def kill_one(progress) -> None:
        parts.append(progress.done)
        if progress.done and not killed:
            killed.append(workers_of(os.getpid())[0])
            os.kill(killed[0], signal.SIGKILL)

    done = embed(source, model, tmp_path, EmbedConfig(**SMALL, engine="ray", ray_workers=2), kill_one)
    assert killed
    assert len(set(parts)) == len(parts) == 63  # each part is told of once
    assert (done.rows, done.computed) == (120, 124)
    assert builders.read(tmp_path).equals(builders.read(here))  # one thread each and the same batches: to the bit
    assert (tmp_path / "failed.jsonl").read_text() == (here / "failed.jsonl").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in here.iterdir()}


@pytest.mark.slow
@pytest.mark.usefixtures("_no_ray_left")
def test_it_goes_on_where_another_engine_stopped_and_tells_what_went_wrong(job, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    busy, shutdown = [], ray.shutdown

    def shut_down() -> None:
        busy.extend(thread.name for thread in threading.enumerate() if thread.name == "iter_threaded")
        shutdown()

    monkeypatch.setattr(ray, "shutdown", shut_down)
    source, model, here = job
    config = EmbedConfig(**SMALL, engine="ray", ray_workers=2)
    embed(source, model, tmp_path, EmbedConfig(**SMALL))
    for path in list(tmp_path.glob("part-*"))[:5]:
        path.unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("part-*")}
    (tmp_path / "part-00061.parquet").unlink(missing_ok=True)
    before.pop(tmp_path / "part-00061.parquet", None)
    (tmp_path / "part-00061.parquet").mkdir()  # where no part can be written
    with pytest.raises(OSError, match=r"a worker of Ray could not go on: .*Is a directory"):
        embed(source, model, tmp_path, config)
    assert busy == [], "threads of Ray Data in a call of Ray's while it shuts down end this process"
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    (tmp_path / "part-00061.parquet").rmdir()
    embed(source, model, tmp_path, EmbedConfig(**SMALL))
    assert builders.read(tmp_path).equals(builders.read(here))


def test_a_part_at_which_workers_die_is_counted(tmp_path):
    parts = ShardWriter(tmp_path, count=10, size=5, width=3)
    assert [parts.count_try(1), parts.count_try(0), parts.count_try(1)] == [1, 1, 2]
    assert list(tmp_path.glob("part-*")) == []
    parts.sweep()
    assert parts.count_try(1) == 1


def test_a_wrong_address_is_told_at_once(job, tmp_path):
    pytest.importorskip("ray")
    source, model, _ = job
    with pytest.raises(ConnectionError, match=r"no Ray at 127\.0\.0\.1:9 .*leave ray_address out"):
        embed(source, model, tmp_path, EmbedConfig(**SMALL, engine="ray", ray_address="127.0.0.1:9"))


def test_without_ray_the_line_says_what_to_install(job, tmp_path, monkeypatch):
    source, model, _ = job
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "convneur.embedding.ray_engine", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'convneur\[ray\]'"):
        embed(source, model, tmp_path / "out", EmbedConfig(**SMALL, engine="ray"))
    assert not (tmp_path / "out").exists()
