"""What the page tells is what explain and predict tell; the baseline is the model without its memory."""

import io
import json

import pytest
import timm
import torch
from PIL import Image

from convneur.app.latency import baseline_of, compare
from convneur.app.limits import Limits
from convneur.app.service import NO_ANSWERS, NO_GATES, Service
from convneur.data.decode import UnreadableImageError, decode_image
from convneur.data.transforms import Preprocessing, eval_transform
from convneur.explain import inspect
from convneur.models import load_model
from convneur.tasks.inspection import open_any
from tests.cli.test_explain import LABELS, SMALL, photo, runs  # noqa: F401  fixtures: runs of every task, a photograph
from tests.data import files
from tests.models.builders import create


@pytest.fixture(scope="module")
def service(runs):  # noqa: F811
    sources = {name: str(runs / name) for name in ("classifier", "local", "added", "detector", "segmenter", "resnet")}
    return Service(sources, open_any, Limits(), torch.device("cpu"))


@pytest.fixture(scope="module")
def file(photo):  # noqa: F811
    return photo.read_bytes()


@pytest.mark.slow
def test_a_classifier_is_told_as_explain_and_predict_tell_it(service, runs, file):  # noqa: F811
    told = service.explain(file, "classifier")
    model, config, _ = load_model(runs / "classifier")
    image = eval_transform(Preprocessing.of(config))(decode_image(file))
    with torch.inference_mode():
        probabilities = model(image[None]).softmax(1)[0]
    answers = {each["label"]: each["probability"] for each in told.numbers["answers"]}
    assert answers == pytest.approx(dict(zip(LABELS, probabilities.tolist(), strict=True)), abs=1e-5)
    assert list(answers.values()) == sorted(answers.values(), reverse=True)
    for numbers, seen in zip(told.numbers["stages"], inspect(model, image).stages, strict=True):
        assert numbers["gate"]["mean"] == pytest.approx(float(seen.gate.mean()), abs=1e-5)
        assert numbers["surprise"]["mean"] == pytest.approx(float(seen.surprise.mean()), abs=1e-4)
        assert "map" not in numbers["gate"]
    assert told.numbers == json.loads(json.dumps(told.numbers))
    assert told.picture.size == (224, 224)
    assert len({Image.open(io.BytesIO(strip)).size for strip in told.strips}) == 1
    assert len(told.strips) == len(set(told.strips)) == 4
    latency = told.numbers["latency"]
    assert (
        0 < latency["over_baseline_quartiles"][0] <= latency["over_baseline"] <= latency["over_baseline_quartiles"][1]
    )


@pytest.mark.parametrize(
    ("name", "maps", "baseline", "answers", "note"),
    [
        ("local", False, False, True, NO_GATES),
        ("added", False, True, True, NO_GATES),
        pytest.param("detector", True, True, False, NO_ANSWERS, marks=pytest.mark.slow),
        pytest.param("segmenter", True, True, False, NO_ANSWERS, marks=pytest.mark.slow),
        ("resnet", False, False, False, NO_GATES),
    ],
)
def test_what_a_model_lacks_is_left_out_and_said(service, file, name, maps, baseline, answers, note):
    told = service.explain(file, name)
    assert bool(told.strips) == bool(told.numbers["stages"]) == maps
    assert (told.numbers["answers"] is not None) == answers
    assert told.numbers["latency"]["milliseconds"] > 0
    assert (told.numbers["latency"]["over_baseline"] is not None) == baseline
    assert note in told.numbers["notes"]


@pytest.mark.slow
def test_only_named_models_are_opened_and_only_once(file):
    opened = []

    def opener(source):
        opened.append(source)
        return open_any(source)

    service = Service({"m": "convneur_m1"}, opener, Limits(), torch.device("cpu"))
    assert opened == []
    for name in ("/etc", "../m", "convneur_m1", "", 0, None):
        with pytest.raises(ValueError, match="is not known"):
            service.explain(file, name)
    with pytest.raises(UnreadableImageError):
        service.explain(files.bomb(), "m")
    assert opened == []
    assert not service.explain(file, "m").numbers["trained"]
    service.explain(file, "m")
    assert opened == ["convneur_m1"]


@pytest.mark.parametrize("fusion", ["gate_add", "gate", "add", "concat"])
def test_the_baseline_is_the_model_without_memory(fusion):
    model = create("convneur_m1", **SMALL, num_classes=3, fusion=fusion).eval()
    local = create("convneur_m1", **SMALL, num_classes=3, global_placement="none").eval()
    baseline = baseline_of(model)
    assert {key: value.shape for key, value in baseline.state_dict().items()} == {
        key: value.shape for key, value in local.state_dict().items()
    }
    local.load_state_dict(baseline.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(baseline(image), local(image))
    assert any("global_branch" in key for key in model.state_dict())  # the model is left as it was
    assert baseline_of(local) is None
    assert baseline_of(timm.create_model("resnet18")) is None
    assert compare(local, None, image)["over_baseline"] is None
