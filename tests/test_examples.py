"""The examples do what they say."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import convneur
from convneur.models import save_model

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def models():
    """examples/transformers_models.py as a module."""
    pytest.importorskip("transformers", reason="the package transformers is not installed")
    spec = importlib.util.spec_from_file_location("transformers_models", EXAMPLES / "transformers_models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["detr", "rt_detr", "mask2former", "upernet"])
def test_transformers_take_a_convneur_as_backbone(models, name, tmp_path):
    """Forward and backward; weights of a classifier go in; what is saved comes back."""
    torch.manual_seed(0)
    model = models.MODELS[name]()
    assert torch.isfinite(models.one_step(model))
    stages = [p for key, p in model.named_parameters() if ".stages." in key]
    assert stages
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in stages)
    assert any(p.grad.abs().max() > 0 for p in stages)

    classifier = convneur.create_model("convneur_m1", num_classes=5)
    save_model(classifier, tmp_path / "classifier", {"num_classes": 5})
    wanted = {n: v for n, v in classifier.state_dict().items() if n.startswith(("stem.", "stages."))}
    assert models.load_backbone(model, str(tmp_path / "classifier")) == len(wanted)
    own = {n: v for n, v in model.state_dict().items() if ".stem." in n or ".stages." in n}
    for key, value in own.items():
        part = next(p for p in ("stem.", "stages.") if f".{p}" in key)
        assert torch.equal(value, wanted[part + key.split(f".{part}", 1)[1]]), key

    model.eval().save_pretrained(tmp_path / "model")
    again = type(model).from_pretrained(tmp_path / "model").eval()
    images = torch.randn(1, 3, 96, 128)
    with torch.inference_mode():
        before, after = model(pixel_values=images), again(pixel_values=images)
    scores = "logits" if name != "mask2former" else "class_queries_logits"
    torch.testing.assert_close(before[scores], after[scores], rtol=0, atol=1e-6)


def test_the_example_of_transformers_runs_as_it_is_written(models, capsys):
    models.main(["detr"])
    assert "gradients reach 180 of 180 tensors of the stages" in capsys.readouterr().out


def test_a_model_that_there_is_not_is_told_in_one_line(models, capsys):
    with pytest.raises(SystemExit) as stopped:
        models.main(["detr", "yolo"])
    told = "yolo is not known; give some of: detr, rt_detr, mask2former, upernet\n"
    assert (stopped.value.code, *capsys.readouterr()) == (2, "", told)


@pytest.mark.slow
def test_without_transformers_the_example_says_what_to_install():
    script = str(EXAMPLES / "transformers_models.py")
    code = f"import runpy, sys; sys.modules['transformers'] = None; runpy.run_path({script!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    told = "this example needs the package transformers; pip install transformers\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", told)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epochs", "line"), [("0", "0 epochs are too few; give at least 1"), ("two", "invalid int value: 'two'")]
)
def test_the_loop_takes_a_number_of_epochs(epochs, line):
    command = [sys.executable, str(EXAMPLES / "train_loop.py"), epochs]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: train_loop.py")
    assert done.stderr.splitlines()[-1].endswith(line)
