"""Features of many images are those of the model asked by hand, whatever happens on the way."""

import json
import os
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import convneur
from convneur.data.semantic import MaskEncoding
from convneur.data.transforms import Preprocessing
from convneur.embedding import EmbedConfig, embed
from convneur.models import load_model, save_model
from convneur.tasks.detection import create_detector
from convneur.tasks.detection.saved import save_detector
from convneur.tasks.segmentation.models import create_segmenter
from convneur.tasks.segmentation.saved import save_segmenter
from convneur_options.segmentation import Inference
from tests.embedding import builders

SMALL = {"part_size": 8, "batch_size": 3, "image_size": 64, "workers": 0, "device": "cpu"}


def run(source, model, out, **changes):
    return embed(str(source), str(model), out, EmbedConfig(**(SMALL | changes)))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return builders.saved_model(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return builders.photo_folder(tmp_path_factory.mktemp("data") / "photos", 20)


def by_hand(model, contents, size=64):
    """What the classifier of a saved model would see of images, all in one batch."""
    loaded = load_model(model)
    with torch.inference_mode():
        images = builders.stacked(contents, Preprocessing.of(loaded.config, size))
        return loaded.model.forward_head(loaded.model.forward_features(images), pre_logits=True)


def test_a_folder_of_photographs(folder, model, tmp_path):
    seen = []
    done = embed(str(folder), str(model), tmp_path, EmbedConfig(**SMALL), seen.append)
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))
    table = builders.read(tmp_path)
    assert table["id"].to_pylist() == paths
    assert table.column_names == ["id", "embedding"]
    expected = by_hand(model, [(folder / path).read_bytes() for path in paths])
    torch.testing.assert_close(builders.vectors(tmp_path), expected, rtol=1e-5, atol=1e-5)  # other batches: rounding
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), expected.shape[1])
    assert [pq.read_metadata(path).num_rows for path in sorted(tmp_path.glob("part-*"))] == [8, 8, 4]
    assert (done.rows, done.computed, done.parts, done.width) == (20, 20, 3, expected.shape[1])
    assert [progress.done for progress in seen] == [0, 3, 6, 8, 11, 14, 16, 19, 20]  # no batch reaches into a part
    about = json.loads((tmp_path / "embed.json").read_text())
    assert about["finished"]
    assert (about["images"], about["embedded"], about["parts"]) == (20, 20, 3)
    assert about["last_call"]["images_per_second"] > 0
    assert not (tmp_path / "failed.jsonl").exists()


def test_of_a_convneur_it_is_the_pooled_last_map(folder, tmp_path):
    save_model(convneur.create_model("convneur_m1", num_classes=3), tmp_path / "m1", {"num_classes": 3})
    run(folder / "land", tmp_path / "m1", tmp_path / "out", batch_size=8)
    contents = [path.read_bytes() for path in sorted((folder / "land" / "near").iterdir(), key=str)]
    torch.testing.assert_close(
        builders.vectors(tmp_path / "out"), by_hand(tmp_path / "m1", contents), rtol=1e-5, atol=1e-5
    )  # fused: rounding


def test_worker_processes_change_nothing(folder, model, tmp_path):
    run(folder, model, tmp_path / "a")
    run(folder, model, tmp_path / "b", workers=2)
    assert builders.read(tmp_path / "a").equals(builders.read(tmp_path / "b"))


@pytest.mark.parametrize("labels", [list(range(20, 40)), [f"class {i}" for i in range(20)], None])
def test_parquet_files_and_their_labels(labels, model, tmp_path):
    columns = {} if labels is None else {"label": labels}
    source = builders.tables(tmp_path / "data", 18, **columns)
    run(source, model, tmp_path / "out")
    table = builders.read(tmp_path / "out")
    assert table["id"].to_pylist() == [f"{name}.parquet:{row}" for name in "ab" for row in range(9)]
    assert ("label" in table.column_names) == (labels is not None)
    if labels is not None:
        assert table["label"].to_pylist() == labels[:18]
    expected = by_hand(model, builders.photos(18))
    torch.testing.assert_close(builders.vectors(tmp_path / "out"), expected, rtol=1e-5, atol=1e-5)
    run(source / "b.parquet", model, tmp_path / "one")
    assert builders.read(tmp_path / "one")["id"].to_pylist() == [f"b.parquet:{row}" for row in range(9)]


def test_shards_and_globs(model, folder, tmp_path):
    source = builders.shards(tmp_path / "data", 12)
    run(f"wds:{source}", model, tmp_path / "out")
    table = builders.read(tmp_path / "out")
    assert table["id"].to_pylist() == [f"{i // 6}.tar:p/{i:03d}" for i in range(12)]
    assert table["label"].to_pylist() == [i if i % 2 else None for i in range(12)]
    expected = by_hand(model, builders.photos(12))
    torch.testing.assert_close(builders.vectors(tmp_path / "out"), expected, rtol=1e-5, atol=1e-5)
    run(f"wds:{source}/1*.tar", model, tmp_path / "one")
    assert builders.read(tmp_path / "one")["id"].to_pylist() == table["id"].to_pylist()[6:]
    run(f"{folder}/*/1*.jpg", model, tmp_path / "glob")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/1*.jpg"))
    assert builders.read(tmp_path / "glob")["id"].to_pylist() == names


def test_half_is_rounded_and_half_as_large(folder, model, tmp_path):
    run(folder, model, tmp_path / "a")
    run(folder, model, tmp_path / "b", half=True)
    assert builders.vectors(tmp_path / "b").dtype == torch.float16
    assert torch.equal(builders.vectors(tmp_path / "b"), builders.vectors(tmp_path / "a").half())


@pytest.mark.parametrize("kind", ["detector", "segmenter"])
def test_other_tasks_give_the_mean_over_the_last_map(kind, folder, tmp_path):
    arguments = {"backbone": "convneur_m1", "num_classes": 2}
    if kind == "detector":
        arguments |= {"kind": "retinanet", "out_channels": 16}
        net = create_detector(**arguments).eval()
        body = net.backbone.body
        save_detector(net, tmp_path / "run" / "model", arguments, ["a", "b"], [1, 2], "card")
    else:
        net = create_segmenter(**arguments).eval()
        body = net.body
        code = MaskEncoding(["a", "b"], torch.zeros(2, 3, dtype=torch.uint8).numpy())
        save_segmenter(net, tmp_path / "run" / "model", arguments, code, Inference(), "card")
    run(folder / "land", tmp_path / "run", tmp_path / "out", batch_size=8)
    contents = [path.read_bytes() for path in sorted((folder / "land" / "near").iterdir(), key=str)]
    config = dict(convneur.create_model("convneur_m1").pretrained_cfg)
    with torch.inference_mode():
        expected = body(builders.stacked(contents, Preprocessing.of(config, 64)))[-1].mean((2, 3))
    torch.testing.assert_close(builders.vectors(tmp_path / "out"), expected, rtol=1e-5, atol=1e-5)  # fused: rounding


def test_what_cannot_be_read_is_left_out_and_listed_once(model, tmp_path):
    source = builders.photo_folder(tmp_path / "photos", 20)
    run(source, model, tmp_path / "whole")
    names = builders.spoil(source)
    for _ in range(2):  # the second time nothing is computed, and nothing listed twice
        done = run(source, model, tmp_path / "out", max_unreadable=0.2)
        assert sorted(done.unreadable) == names
        listed = [json.loads(line) for line in (tmp_path / "out" / "failed.jsonl").read_text().splitlines()]
        assert [row["id"] for row in listed] == names
        assert "megapixels" in listed[0]["reason"]  # bomb.png
        table = builders.read(tmp_path / "out")
        assert table["id"].to_pylist() == builders.read(tmp_path / "whole")["id"].to_pylist()
    torch.testing.assert_close(
        builders.vectors(tmp_path / "out"), builders.vectors(tmp_path / "whole"), rtol=1e-5, atol=1e-5
    )


def test_too_many_unreadable_end_the_job_and_can_be_allowed(model, tmp_path):
    source = builders.photo_folder(tmp_path / "photos", 20)
    builders.spoil(source)
    with pytest.raises(ValueError, match=r"cannot be read, more than the limit of 1\.0%"):
        run(source, model, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")}
    assert before
    run(source, model, tmp_path / "out", max_unreadable=0.2)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert len(builders.read(tmp_path / "out")) == 20


@pytest.mark.slow
def test_a_killed_job_goes_on(model, tmp_path):
    """SIGKILL after some parts: the same command gives the same table and leaves alone what was there."""
    source = builders.photo_folder(tmp_path / "photos", 120)
    builders.spoil(source)
    settings = {"part_size": 4, "batch_size": 3, "max_unreadable": 0.2}
    run(source, model, tmp_path / "whole", **settings)
    out = tmp_path / "out"
    command = f"embed {source} --model {model} --out {out} --part-size 4 --batch-size 3 --max-unreadable 0.2"
    command += " --image-size 64 --workers 1 --device cpu"
    process = subprocess.Popen(
        [sys.executable, "-m", "convneur", *command.split()], env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    while len(list(out.glob("part-*"))) < 3:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert 3 <= len(before) < 31
    (out / ".part-00030.parquet-abc").write_bytes(b"PAR1 half")
    damaged = min(before)
    damaged.write_bytes(damaged.read_bytes()[:100])  # a disk that failed
    del before[damaged]
    done = run(source, model, out, **settings)
    assert done.computed == 124 - 4 * len(before)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert builders.read(out).equals(builders.read(tmp_path / "whole"))  # to the bit
    assert (out / "failed.jsonl").read_text() == (tmp_path / "whole" / "failed.jsonl").read_text()
    assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}
    assert run(source, model, out, **settings).computed == 0


def test_another_model_source_or_setting_is_refused(folder, model, tmp_path):
    run(folder, model, tmp_path / "out")
    other = builders.saved_model(tmp_path / "other", seed=1)
    for source, which, changes, message in [
        (folder, other, {}, "begun with another model"),
        (folder / "sea", model, {}, "begun with another source"),
        (folder, model, {"part_size": 4}, "begun with another part size"),
        (folder, model, {"image_size": 96}, "begun with another preprocessing"),
        (folder, model, {"half": True}, "begun with another type"),
    ]:
        with pytest.raises(ValueError, match=message):
            run(source, which, tmp_path / "out", **changes)
    run(folder, model, tmp_path / "out", batch_size=5, max_unreadable=0.5)  # these do not decide what comes out
    moved = folder.rename(folder.with_name("moved"))
    try:
        assert run(moved, model, tmp_path / "out").computed == 0
    finally:
        moved.rename(folder)
