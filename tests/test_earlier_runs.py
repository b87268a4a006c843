"""Runs of an earlier version (commit 0ea6448) load, answer as they did, and are judged by what they held out."""

import json
from pathlib import Path

import pytest
import torch

import convneur
from tests.data.semantic.builders import write_scenes

EARLIER = Path(__file__).parent / "models" / "earlier"


def ramp(side: int) -> torch.Tensor:
    """The image that was asked about then."""
    return torch.linspace(-1, 1, 3 * side * side).reshape(1, 3, side, side)


@torch.inference_mode()
def test_a_classifier_answers_as_it_did_and_is_as_good():
    earlier = convneur.load(EARLIER / "digits")
    logits = torch.tensor([-0.008510, 0.052464, -0.094831, -0.428581, 0.645572, -0.185824, 0.660565, -0.202718])
    torch.testing.assert_close(earlier.model(ramp(32))[0, :8], logits, rtol=1e-4, atol=1e-5)
    told = json.loads((EARLIER / "digits" / "metrics.json").read_text())
    found = earlier.evaluate("digits", progress=False, workers=0).numbers
    assert found["top1"] == pytest.approx(told["top1"], abs=0.003)
    image = torch.zeros(1, 40, 40)
    assert earlier.predict(image, progress=False)[0].label in map(str, range(10))


@torch.inference_mode()
def test_a_segmentation_model_answers_as_it_did_and_is_as_good(tmp_path, monkeypatch):
    write_scenes(tmp_path / "scenes")
    monkeypatch.chdir(tmp_path)
    earlier = convneur.load(EARLIER / "scenes")
    means = torch.tensor([1.985194, -0.738339, -0.958733])
    torch.testing.assert_close(earlier.model(ramp(64)).mean((2, 3))[0], means, rtol=1e-4, atol=1e-5)
    told = json.loads((EARLIER / "scenes" / "metrics.json").read_text())
    found = earlier.evaluate("scenes", progress=False, workers=0).numbers
    assert found["miou"] == pytest.approx(told["miou"], abs=0.003)
    marked = earlier.predict(tmp_path / "scenes" / "val" / "images" / "0.png", progress=False)[0]
    assert marked.mask.shape == (64, 96)
    assert set(marked.shares) <= {"ground", "disc", "bar"}
