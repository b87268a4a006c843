"""A ConvNeXt of timm becomes the ConvNeur that computes the same function."""

import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file

import convneur
from convneur.models import VARIANTS
from tests.models.builders import variants

SOME = pytest.mark.parametrize("name", variants("convneur_m1", "convneur_m4"))


def random_convnext(name: str, **kwargs) -> torch.nn.Module:
    """A ConvNeXt in which nothing is near zero, so that a wrong weight would show."""
    model = timm.create_model(name, **kwargs).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("gamma"):
                parameter.uniform_(0.2, 1.0)
            elif parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@SOME
def test_same_logits_and_features(name):
    theirs = random_convnext(VARIANTS[name].baseline, num_classes=10)
    ours = convneur.from_convnext(theirs).eval()
    assert ours.default_cfg["architecture"] == name
    images = torch.randn(2, 3, 96, 128)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)
        pairs = zip(ours.forward_intermediates(images)[1], theirs.forward_intermediates(images)[1], strict=True)
        for mine, other in pairs:
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("placement", "fusion"),
    [("per_stage", "gate_add"), ("per_layer", "gate"), ("per_stage", "add"), ("per_layer", "concat"), ("none", "gate")],
)
def test_same_function_whatever_the_global_branch(placement, fusion):
    theirs = random_convnext("convnext_atto", num_classes=10)
    ours = convneur.from_convnext(theirs, global_placement=placement, fusion=fusion, memory={"state": "mlp"}).eval()
    images = torch.randn(2, 3, 96, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


@SOME
def test_a_fresh_model_computes_what_its_baseline_computes(name):
    """The baseline here is ours without global branch, with the same local weights copied by name."""
    ours = timm.create_model(name, num_classes=10, ls_init_value=0.5).eval()
    local = timm.create_model(name, num_classes=10, ls_init_value=0.5, global_placement="none").eval()
    assert sum(p.numel() for p in local.parameters()) == sum(
        p.numel() for p in timm.create_model(VARIANTS[name].baseline, num_classes=10).parameters()
    )
    copied = {k: v for k, v in ours.state_dict().items() if k in local.state_dict() and not k.endswith("gamma")}
    local.load_state_dict(copied, strict=False)
    images = torch.randn(2, 3, 96, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), local(images), rtol=1e-5, atol=1e-5)


def test_from_state_dict_and_files(tmp_path):
    theirs = random_convnext("convnext_atto", num_classes=10, in_chans=1)
    save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "weights.pth")
    images = torch.randn(1, 1, 64, 64)
    for source in (theirs.state_dict(), tmp_path / "weights.safetensors", str(tmp_path / "weights.pth")):
        ours = convneur.from_convnext(source).eval()
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


def test_from_a_timm_model_name(monkeypatch, tmp_path):
    """The name is loaded by timm with pretrained=True; here from a local folder in the hub's layout."""
    theirs = random_convnext("convnext_atto", num_classes=10)
    timm.models.save_for_hf(theirs, tmp_path, safe_serialization=True)
    ours = convneur.from_convnext(f"local-dir:{tmp_path}").eval()
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


def test_new_classifier_after_the_conversion():
    ours = convneur.from_convnext(random_convnext("convnext_atto", num_classes=10), num_classes=3)
    assert ours(torch.randn(1, 3, 64, 64)).shape == (1, 3)
    assert convneur.from_convnext(random_convnext("convnext_atto", num_classes=0)).num_classes == 0


def test_every_missing_and_left_over_weight_is_named():
    state_dict = dict(random_convnext("convnext_atto").state_dict())
    del state_dict["stages.1.blocks.1.mlp.fc2.bias"]
    state_dict["stages.1.blocks.1.mlp.grn.weight"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"missing.*mlp.fc2.bias.*left over.*mlp.grn.weight") as caught:
        convneur.from_convnext(state_dict)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_converted_is_one_clear_line(tmp_path):
    (tmp_path / "broken.pth").write_bytes(b"not a checkpoint")
    wrong = dict(random_convnext("convnext_atto").state_dict())
    wrong["head.norm.weight"] = torch.zeros(7)
    transposed = dict(random_convnext("convnext_atto").state_dict())
    transposed["stages.0.blocks.0.mlp.fc1.weight"] = transposed["stages.0.blocks.0.mlp.fc1.weight"].transpose(0, 1)
    calls = [
        (lambda: convneur.from_convnext(timm.create_model("resnet18")), ValueError, "no layer scale"),
        (lambda: convneur.from_convnext(timm.create_model("convnext_tiny")), ValueError, "convnext_atto"),
        (lambda: convneur.from_convnext(timm.create_model("convnextv2_atto")), ValueError, "no layer scale"),
        (lambda: convneur.from_convnext("resnet18.a1_in1k"), ValueError, "no layer scale"),  # before it is fetched
        (lambda: convneur.from_convnext(wrong), ValueError, "head.norm.weight of the state dict is of shape"),
        (lambda: convneur.from_convnext(transposed), ValueError, "is of shape"),
        (lambda: convneur.from_convnext(tmp_path / "broken.pth"), ValueError, "no checkpoint"),
        (lambda: convneur.from_convnext("no_such_model"), FileNotFoundError, "no file of that name exists"),
        (lambda: convneur.from_convnext(tmp_path / "absent.pth"), FileNotFoundError, "neither a file nor a model"),
    ]
    for call, kind, message in calls:
        with pytest.raises(kind, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error", [LocalEntryNotFoundError("cannot find\nthe file on disk"), RuntimeError("no weights")]
)
def test_without_a_network_a_file_may_be_given(error, monkeypatch):
    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr("timm.models._builder.load_pretrained", fail)
    with pytest.raises(OSError, match="could not be loaded") as caught:
        convneur.from_convnext("convnext_pico.d1_in1k")
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("or give its weights as a file (--weights file.safetensors)")


def test_a_pickle_with_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="no checkpoint that can be read safely"):
        convneur.from_convnext(tmp_path / "evil.pth")
    assert not (tmp_path / "touched").exists()
