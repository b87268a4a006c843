import math

import pytest
import torch

from convneur.lab.demo import DEMO, MOSAIC
from convneur.lab.tile_segmentation import TileSegmentation
from convneur.models import create_model
from convneur.tasks.classification.module import Classification
from convneur.training.fit import processes
from convneur.training.optim import scheduler
from convneur_options.fit import FitConfig
from convneur_options.optim import OptimConfig


def test_there_are_as_many_processes_as_gpus_at_most_and_any_number_on_a_cpu(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    for gpus, asked, there in [(0, 8, 8), (0, 0, 1), (2, 2, 2), (2, 0, 2)]:
        monkeypatch.setattr("torch.cuda.device_count", lambda gpus=gpus: gpus)
        assert processes(FitConfig(devices=asked)) == (there, 1)
    assert processes(FitConfig(devices=8, accelerator="cpu")) == (8, 1), "the two GPUs are left alone"
    with pytest.raises(ValueError, match=r"--fit.devices 8 is more than the GPUs here \(2\); give that at most"):
        processes(FitConfig(devices=8))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ValueError, match=r"there is no GPU here for --fit.accelerator gpu; leave it at auto"):
        processes(FitConfig(accelerator="gpu"))


def test_cosine_with_warmup():
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": 2.0}, {"params": [torch.zeros(1)], "lr": 0.2}])
    schedule = scheduler(optimizer, 100, OptimConfig(warmup=0.1))
    rates = []
    for _ in range(100):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    first, second = zip(*rates, strict=True)
    assert first[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert first[55] == pytest.approx(2 * 0.5 * (1 + math.cos(math.pi * 45 / 90)))
    assert first[-1] < 0.01
    assert second == pytest.approx([rate / 10 for rate in first])


def test_the_head_learns_first():
    groups = [{"params": [torch.zeros(1)], "name": name} for name in ("decay", "head_decay")]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    schedule = scheduler(optimizer, 100, OptimConfig(warmup=0.1, head_first=0.2))
    rates = []
    for _ in range(100):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    body, head = zip(*rates, strict=True)
    assert body[:20] == (0.0,) * 20
    assert body[20:28] == pytest.approx([(i + 1) / 8 for i in range(8)])
    assert head[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert OptimConfig(lr=1e-3, lr_batch=512).rate(1024) == 2e-3
    assert OptimConfig(lr=1e-3).rate(1024) == 1e-3


def test_marking_ignores_what_is_to_be_ignored():
    model = create_model("convneur_m1", **MOSAIC.model)
    task = TileSegmentation(model, OptimConfig(), prior=0.28)
    images, targets = torch.rand(2, 1, 64, 64), torch.randint(0, 2, (2, 4, 4))
    assert torch.sigmoid(model.head.fc.bias).item() == pytest.approx(0.28)
    targets[:, 0, 0] = -1
    task.log = lambda *_args, **_kwargs: None
    loss = task.training_step((images, targets))
    logits = model(images)[:, 0].flatten(1)[:, 1:]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets.flatten(1)[:, 1:].float())
    torch.testing.assert_close(loss, expected)
    task.iou.update(torch.tensor([[0.9, 0.9, 0.1, 0.9]]), torch.tensor([[1, 0, 1, -1]]))
    assert task.iou.compute().item() == pytest.approx(1 / 3)


def test_classification_loss_and_confusion():
    task = Classification(
        create_model("convneur_m1", **DEMO.model), OptimConfig(), label_smoothing=0.1, keep_confusion=True
    )
    task.log = lambda *_args, **_kwargs: None
    images, labels = torch.rand(6, 1, 32, 32), torch.arange(6)
    expected = torch.nn.functional.cross_entropy(task(images), labels, label_smoothing=0.1)
    torch.testing.assert_close(task.training_step((images, labels)), expected)
    task.validation_step((images, labels))
    assert task.confusion.compute().sum(1).tolist() == [1] * 6 + [0] * 4
    task.on_validation_epoch_start()
    assert task.confusion.confmat.sum() == 0


def test_rates_that_fall_in_steps():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule = scheduler(optimizer, 120, OptimConfig(warmup=0.05, drops=(8 / 12, 11 / 12)))
    rates = []
    for _ in range(120):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:6] == pytest.approx([(i + 1) / 6 for i in range(6)])
    assert rates[6:80] == pytest.approx([1.0] * 74)
    assert rates[80:110] == pytest.approx([0.1] * 30)
    assert rates[110:] == pytest.approx([0.01] * 10)
