"""One label per place."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from convneur import create_model
from convneur.lab.tile_classification import TileClassification
from convneur.tasks.base import IGNORE
from convneur_options.optim import OptimConfig


@pytest.fixture(autouse=True)
def _without_trainer(monkeypatch):
    monkeypatch.setattr(TileClassification, "log", lambda *_, **__: None)


def labeller(groups: torch.Tensor) -> TileClassification:
    torch.manual_seed(0)
    model = create_model("convneur_m1", num_classes=3, global_pool="", dims=[4, 8, 8], depths=[1, 1, 1])
    return TileClassification(model, OptimConfig(), groups)


def test_finer_maps_are_averaged_over_a_place_and_unknown_places_count_nowhere():
    task = labeller(torch.zeros(2, 2).long())
    images, targets = torch.randn(2, 3, 64, 64), torch.tensor([[[0, 1], [2, IGNORE]], [[IGNORE, 0], [1, 1]]])
    logits = task(images)
    torch.testing.assert_close(logits, F.avg_pool2d(task.model(images), 2))  # 4 x 4 places of 16 px
    known = targets != IGNORE
    expected = F.cross_entropy(logits.permute(0, 2, 3, 1)[known], targets[known])
    torch.testing.assert_close(task.training_step((images, targets)), expected)


def test_accuracy_of_each_group_of_places():
    groups = torch.tensor([[0, 1], [1, 2]])
    task = labeller(groups).eval()
    images = torch.randn(4, 3, 64, 64)
    answers = task(images).argmax(1)
    targets = answers.clone()
    targets[:, 1, 1] = (answers[:, 1, 1] + 1) % 3  # all of group 2 wrong
    targets[:2, 0, 1] = (answers[:2, 0, 1] + 1) % 3  # a quarter of group 1 wrong
    targets[:, 0, 0] = IGNORE
    task.validation_step((images, targets))
    assert set(task.of_group) == {"1", "2"}
    torch.testing.assert_close(task.of_group["1"].compute(), torch.tensor(0.75))
    torch.testing.assert_close(task.of_group["2"].compute(), torch.tensor(0.0))
    torch.testing.assert_close(task.accuracy.compute(), torch.tensor(0.5))
