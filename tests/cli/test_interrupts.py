"""Ctrl-C and SIGTERM end every verb in every phase with one line, and nothing stays behind."""

import functools
import importlib
import re
import signal

import numpy as np
import pytest

from tests.cli.test_cli import call
from tests.data import files
from tests.data.semantic.builders import write_scenes as write_pixels
from tests.export.builders import saved
from tests.tasks.detection.builders import write_scenes as write_objects
from tests.training.runs import SMALL_DETECTOR, SMALL_SEGMENTER

FORWARD = "convneur.models.backbone:ConvNeur.forward_features"
TINY = "--backbone.dims 8 16 --backbone.depths 1 1 --fit.accelerator cpu --workers 0 --epochs 1".split()
CLASSIFIER = ["--data", "{classes}", "--image-size", "32", "--batch-size", "4", *TINY]
ONE = ["--workers", "0", "--epochs", "1"]
MODEL = ["--model", "{model}"]

# Verb, where the signal comes: at the first call of this, and the arguments.
PHASES = [
    ("train", "convneur.tasks.classification.spec:open_source", CLASSIFIER),
    ("train", FORWARD, CLASSIFIER),
    ("train", "convneur.training.checkpoints:add_digest", CLASSIFIER),
    ("train", "convneur.training.kept:final_weights", CLASSIFIER),
    ("train", "convneur.tasks.classification.predictor:evaluate", CLASSIFIER),
    ("train", "convneur.models.hub:save_for_hf", CLASSIFIER),
    ("train", "convneur.tasks.results:write_report", CLASSIFIER),
    (
        "train detection",
        "convneur.tasks.detection.predictor:evaluate_detector",
        ["--data", "{objects}", *SMALL_DETECTOR[:-2], *ONE],
    ),
    (
        "train segmentation",
        "convneur.tasks.segmentation.predictor:evaluate_segmenter",
        ["--data", "{pixels}", *SMALL_SEGMENTER, *ONE],
    ),
    ("eval", FORWARD, [*MODEL, "--data", "{classes}", "--workers", "1"]),
    ("eval", "convneur.tasks.results:write_report", [*MODEL, "--data", "{classes}", "--workers", "0"]),
    ("predict", FORWARD, ["{classes}", *MODEL]),
    ("embed", FORWARD, ["{classes}", *MODEL, "--workers", "1"]),
    ("embed", "convneur.embedding.job:open_unlabelled", ["{classes}", *MODEL]),
    ("stream", "convneur.streaming.scratch:Scratch.finish", ["{image}", *MODEL]),
    ("stream", "convneur.streaming.scratch:Scratch.finish", ["{image}", *MODEL, "--workers", "2"]),
    ("explain", "timm:create_model", ["{classes}", *MODEL]),
    ("export", FORWARD, ["{model}", "--format", "torch"]),
    ("info", "convneur.bench.variants:count_cost", []),
    ("bench", "convneur.bench.run:measured_rates", []),
    ("ablate placement", FORWARD, [*CLASSIFIER, "--budget", "tiny", "--train-images", "0"]),
    ("demo", FORWARD, ["--epochs", "1"]),
    ("demo", "convneur.lab.demo:count_cost", ["--epochs", "1"]),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """What the arguments name."""
    root = tmp_path_factory.mktemp("places")
    for name in "abcde":
        (root / "classes" / name).mkdir(parents=True)
        for number in range(4):
            (root / "classes" / name / f"{number}.png").write_bytes(files.encoded(files.plain(), "PNG"))
    np.save(root / "image.npy", np.random.default_rng(0).random((64, 64, 3), dtype=np.float32))
    return {
        "classes": root / "classes",
        "objects": write_objects(root / "objects"),
        "pixels": write_pixels(root / "pixels"),
        "image": root / "image.npy",
        "model": saved(root / "model", ["a", "b", "c", "d", "e"]),
    }


@pytest.mark.parametrize(("verb", "where", "arguments"), PHASES, ids=lambda value: str(value).rpartition(".")[2][:20])
@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)], ids=["SIGINT", "SIGTERM"]
)
def test_a_signal_ends_the_verb_and_nothing_stays(verb, where, arguments, number, places, tmp_path, monkeypatch):
    module, _, path = where.partition(":")
    *owner, name = path.split(".")
    holder = functools.reduce(getattr, owner, importlib.import_module(module))
    real, came = getattr(holder, name), []

    def with_signal(*args, **options):
        if not came:
            came.append(True)
            signal.raise_signal(number)
        return real(*args, **options)

    monkeypatch.setattr(holder, name, with_signal)
    out = [] if verb in ("predict", "info") else ["--out", str(tmp_path / "out.pt2")]
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    code, _, err = call(*verb.split(), *(word.format(**places) for word in arguments), *out)
    assert came, err
    assert code == 128 + number, err
    assert re.match(r"convneur: stopped", err.strip().splitlines()[-1]), err
    assert "Traceback" not in err
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    hidden = {path.name for path in tmp_path.rglob(".*")}
    assert not {each for each in hidden if each not in (".lock", ".stream") and not each.startswith(".convneur-")}, (
        hidden
    )
