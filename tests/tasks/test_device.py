"""Where models are judged: on what Lightning trains on for the same setting."""

import pytest

from convneur.devices import device_for
from convneur.training.fit import processes
from convneur_options.fit import FitConfig


@pytest.mark.parametrize(
    ("cuda", "mps", "asked", "device"),
    [
        (False, True, "gpu", "mps"),
        (False, True, "auto", "mps"),
        (False, True, "mps", "mps"),
        (False, True, "cpu", "cpu"),
        (True, False, "gpu", "cuda"),
        (True, False, "auto", "cuda"),
        (True, False, "cpu", "cpu"),
        (False, False, "auto", "cpu"),
        (False, False, "gpu", "cuda"),  # which PyTorch refuses, by its name
    ],
)
def test_a_gpu_is_whichever_there_is(cuda, mps, asked, device, monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.cuda.device_count", lambda: int(cuda))
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)
    assert device_for(asked).type == device
    if cuda or mps:
        assert processes(FitConfig(accelerator=asked)) == (1, 1), "training takes it, too"
