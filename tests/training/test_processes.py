"""Several processes learn what one learns."""

import json

import pytest
from safetensors.torch import load_file

from tests.training.runs import finish, train

# 2 epochs of 29 steps. No mixing and no dropped paths: what they draw differs between processes.
PLAIN = ("--data digits --image-size 32 --epochs 2 --fit.accelerator cpu --workers 0 --augment.erasing 0.2").split()


def curve(folder):
    return json.loads((folder / "metrics.json").read_text())["curve"]


@pytest.mark.slow
def test_two_processes_equal_one_with_the_same_global_batch(tmp_path):
    """With whole weights in each process (DDP), and with weights and optimizer state sharded over them (FSDP2)."""
    shared = [*PLAIN, "--batch-size", "24", "--fit.devices", "2"]
    one = train(*PLAIN, "--batch-size", "48", "--out", str(tmp_path / "one"))
    two = train(*shared, "--out", str(tmp_path / "ddp"))
    code, _, err = finish(one)
    assert code == 0, err
    code, out, err = finish(two)
    assert code == 0, err
    assert out.count("top-1 accuracy") == 1, "only the first process reports"
    code, _, err = finish(train(*shared, "--fit.strategy", "fsdp2", "--out", str(tmp_path / "fsdp2")))
    assert code == 0, err
    alone = curve(tmp_path / "one")
    for several in (curve(tmp_path / "ddp"), curve(tmp_path / "fsdp2")):
        assert alone[-1]["step"] == several[-1]["step"] == 58
        for a, b in zip(alone, several, strict=True):
            assert a["val_loss"] == pytest.approx(b["val_loss"], abs=1e-4)
            assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
            assert a["accuracy"] == pytest.approx(b["accuracy"], abs=1 / 360 + 1e-6)
            assert a["top5"] == pytest.approx(b["top5"], abs=1 / 360 + 1e-6)
    models = [load_file(tmp_path / run / "model" / "model.safetensors") for run in ("one", "fsdp2")]
    whole, gathered = ({name: weight.shape for name, weight in model.items()} for model in models)
    assert whole == gathered, "what was sharded is kept whole"


@pytest.mark.slow
def test_a_port_in_use_is_one_line(tmp_path):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        arguments = [*PLAIN, "--batch-size", "64", "--fit.devices", "2", "--out", str(tmp_path / "run")]
        code, _, err = finish(train(*arguments, MASTER_PORT=port))
    assert code == 2, err
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1].endswith("the port is in use or out of reach; set MASTER_PORT to a free one")
