"""What the backbone computes: numbers, modes, sizes, bad input."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_sample_images

import convneur
from tests.models.builders import create, variants


@pytest.fixture(scope="module")
def m1() -> convneur.ConvNeur:
    torch.manual_seed(0)
    return create("convneur_m1", num_classes=10).eval()


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    """Two photographs, 256 x 256, normalised."""
    images = (
        torch.stack([torch.from_numpy(p.copy()).permute(2, 0, 1) for p in load_sample_images().images]).float() / 255
    )
    images = F.interpolate(images, size=(256, 256), mode="bilinear", antialias=True)
    return (images - images.mean()) / images.std()


@pytest.mark.parametrize("name", variants("convneur_m1"))
def test_same_output_whatever_autograd_does(name):
    model = create(name, num_classes=10).eval()
    images = torch.randn(2, 3, 96, 96)
    expected = model(images)
    with torch.no_grad():
        found = model(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)  # in inference the memory is written by kernels
    with torch.inference_mode():
        assert torch.equal(model(images), found)


MLP_GATE = {"memory": {"state": "mlp"}, "fusion": "gate"}


@pytest.mark.parametrize(
    ("dtype", "kwargs"),
    [
        (torch.bfloat16, {}),
        (torch.float16, MLP_GATE),
        (torch.bfloat16, {"preset": "published"}),
        pytest.param(torch.float16, {}, marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, MLP_GATE, marks=pytest.mark.slow),
        pytest.param(torch.float16, {"preset": "published"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_autocast(dtype, kwargs, photos):
    """A product rounds its factors to 8 (bf16) or 11 bits (fp16), a relative error of 2^-9 or 2^-12; over the some 50
    maps in a row of a network these add up like a random walk, to about 7 of them, and the memory's normalisations
    (keys, context) and its sums over 196 tokens can triple that: 2^-9 * 7 * 3 is 0.04, and 0.005 for fp16.

    The mlp state stands behind a gate here: in any precision it magnifies a difference in the tokens of a photograph by
    up to five in each stage (the linear one by up to two), and added to the features that goes on to the next.
    """
    model = create("convneur_m1", num_classes=10, **kwargs).eval()
    with torch.inference_mode():
        exact = model(photos)
        with torch.autocast("cpu", dtype=dtype):
            low = model(photos)
    assert low.isfinite().all()
    assert ((low - exact).norm() / exact.norm()).item() < {torch.bfloat16: 0.04, torch.float16: 0.005}[dtype]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(32, 320), width=st.integers(32, 320))
def test_any_size(m1, height, width):
    with torch.inference_mode():
        out = m1.forward_features(torch.randn(1, 3, height, width))
    assert out.shape == (1, 320, height // 4 // 2 // 2 // 2, width // 4 // 2 // 2 // 2)
    assert out.isfinite().all()


def hot_pixel(size: int) -> torch.Tensor:
    image = torch.zeros(1, 3, size, size)
    image[..., size // 3, size // 2] = 1e4
    return image


@pytest.mark.parametrize("kwargs", [{}, {"memory": {"state": "mlp"}}, {"preset": "published"}], ids=str)
@pytest.mark.parametrize("image", [torch.zeros, torch.ones, lambda *s: torch.full(s, 1e4), lambda *s: hot_pixel(s[-1])])
def test_extreme_images_are_finite(image, kwargs):
    model = create("convneur_m1", num_classes=10, **kwargs)
    images = image(1, 3, 64, 64)
    out = model(images)
    out.sum().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.integers(2, 5), size=st.integers(32, 96), seed=st.integers(0, 10))
def test_a_batch_gives_what_each_image_gives_alone(m1, batch, size, seed):
    images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        together = m1(images)
        alone = torch.cat([m1(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_nan_stays_in_its_sample(m1):
    images = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        clean = m1(images)
        images[1, 0, 5, 5] = float("nan")
        out = m1(images)
    assert out[1].isnan().all()
    torch.testing.assert_close(out[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize(
    "kwargs", [{}, {"memory": {"state": "mlp"}}, {"preset": "linear", "memory": {"chunk_size": 49}}], ids=str
)
def test_the_mean_gate_is_the_same_at_twice_the_resolution(photos, kwargs):
    """The memory needs no retuning at another size."""
    model = create("convneur_m2", **kwargs).eval()
    means: list[list[float]] = []
    with torch.inference_mode():
        for size in (128, 256):
            gates = []
            hooks = [
                b.register_forward_hook(lambda _m, _i, out, gates=gates: gates.append(out[0].sigmoid().mean().item()))
                for b in model.modules()
                if isinstance(b, convneur.layers.GlobalBranch)
            ]
            model(F.interpolate(photos, size=(size, size), mode="bilinear", antialias=True))
            means.append(gates)
            for hook in hooks:
                hook.remove()
    assert len(means[0]) == 4
    for small, large in zip(*means, strict=True):
        assert abs(large / small - 1) < 0.1


def test_a_far_patch_changes_the_features_with_memory_only():
    """At 448 px the corner of the third map lies outside the receptive field of a patch in the other corner."""
    images = torch.randn(1, 3, 448, 448)
    changed = images.clone()
    changed[..., -16:, -16:] += 1
    for placement, sees in (("per_stage", True), ("none", False)):
        model = create("convneur_m1", global_placement=placement).eval()
        with torch.inference_mode():
            before, after = (model.forward_intermediates(x, indices=[1])[1][0][0, :, 0, 0] for x in (images, changed))
        assert torch.equal(before, after) != sees


@pytest.mark.parametrize("fusion", ["gate", "add", "gate_add", "concat"])
@pytest.mark.parametrize("placement", ["per_stage", "per_layer"])
def test_placement_and_fusion_do_what_they_say(placement, fusion):
    model = create("convneur_m1", global_placement=placement, fusion=fusion)
    branches = [[b.global_branch is not None for b in stage.blocks] for stage in model.stages]
    assert branches == [[placement == "per_layer" or j == 0 for j in range(len(b))] for b in branches]
    block = model.stages[0].blocks[0].eval()
    x = torch.randn(2, 40, 16, 16)
    local = block.mlp(block.norm(block.conv_dw(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    local = local * block.gamma.view(1, -1, 1, 1)
    grid, shift = block.global_branch(x)
    assert (shift is not None) == (fusion == "gate_add")
    if fusion.startswith("gate"):
        expected = x + local * F.interpolate(grid.sigmoid(), scale_factor=4, mode="bilinear")
        if shift is not None:
            expected = expected + F.interpolate(shift, scale_factor=4, mode="bilinear")
    elif fusion == "add":
        expected = x + local + F.interpolate(grid, scale_factor=4, mode="bilinear")
    else:
        both = torch.cat([local, F.interpolate(grid, scale_factor=4, mode="bilinear")], 1)
        expected = x + F.conv2d(both, block.merge.weight[..., None, None], block.merge.bias)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_parameter_groups():
    model = timm.create_model("convneur_m1", num_classes=2)
    groups = {g["name"]: g for g in model.parameter_groups(lr=1e-3, weight_decay=0.05)}
    assert {(n, g["lr"], g["weight_decay"]) for n, g in groups.items()} == {
        ("decay", 1e-3, 0.05),
        ("no_decay", 1e-3, 0.0),
        ("global", 1e-3 * 0.1, 0.0),
        ("head_decay", 1e-3, 0.05),
        ("head_no_decay", 1e-3, 0.0),
    }
    assert sum(len(g["params"]) for g in groups.values()) == len(list(model.parameters()))
    assert {id(p) for p in groups["global"]["params"]} == {
        id(p) for n, p in model.named_parameters() if "global_branch" in n
    }
    assert "global" not in {g["name"] for g in create("convneur_m1", global_placement="none").parameter_groups(1e-3)}
    torch.optim.AdamW(groups.values())


def test_layer_decay_lowers_the_rate_towards_the_stem():
    model = timm.create_model("convneur_m1", num_classes=2)
    rate = {id(p): g["lr"] for g in model.parameter_groups(1.0, layer_decay=0.5) for p in g["params"]}
    named = {name: rate[id(p)] for name, p in model.named_parameters()}
    assert len(rate) == len(named)
    assert named["head.fc.weight"] == 1.0
    blocks = [
        named[f"stages.{s}.blocks.{b}.mlp.fc1.weight"] for s, depth in enumerate((2, 2, 6, 2)) for b in range(depth)
    ]
    assert blocks == [blocks[0] * 2**i for i in range(len(blocks))]
    assert named["stem.0.weight"] < blocks[0]
    assert named["stages.0.blocks.0.global_branch.up.weight"] == pytest.approx(0.1 * blocks[0])


def test_presets():
    published = timm.create_model("convneur_m1", preset="published")
    config = published.global_config
    assert (config.token_strides, config.memory.state, config.memory.read) == ((1, 1, 1, 1), "mlp", "causal")
    assert (config.memory.chunk_size, config.memory.reference_length) == (196, None)
    changed = timm.create_model("convneur_m1", preset="published", memory={"chunk_size": 49}, memory_width=32)
    assert (changed.global_config.memory.chunk_size, changed.global_config.memory.state) == (49, "mlp")
    assert changed.stages[0].blocks[0].global_branch.memory.width == 32
    slots = timm.create_model("convneur_m1", preset="published", memory={"state": "slots"})
    assert (slots.global_config.memory.state, slots.global_config.fusion) == ("slots", "gate")


def test_the_hub_layout_brings_back_the_same_model(tmp_path):
    model = create("convneur_m1", num_classes=3)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True, model_args={"memory": {"heads": 4}})
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(again(images), model.eval()(images))


BAD = [
    (lambda m: m(torch.randn(3, 64, 64)), r"shape \(3, 64, 64\).*give \(batch, 3, height, width\)"),
    (lambda m: m(torch.randn(1, 1, 64, 64)), "1 channels and the model takes 3.*in_chans=1"),
    (lambda m: m(torch.randn(1, 3, 64, 31)), "64 x 31 px are smaller than the total stride.*32 x 32"),
    (lambda m: m.forward_intermediates(torch.randn(1, 3, 16, 64)), "16 x 64 px"),
    (lambda m: m.forward_intermediates(torch.randn(1, 3, 64, 64), output_fmt="NLC"), "use 'NCHW'"),
    (lambda _: convneur.create_model("convneur_m11"), "did you mean 'convneur_m1'"),
    (lambda _: convneur.create_model("resnet50"), "use one of 'convneur_m1'"),
    (lambda _: timm.create_model("convneur_m1", output_stride=16), "output_stride=16 is not supported"),
    (lambda _: timm.create_model("convneur_m1", preset="publshed"), "did you mean 'published'"),
    (lambda _: timm.create_model("convneur_m1", global_placement="perstage"), "did you mean 'per_stage'"),
    (lambda _: timm.create_model("convneur_m1", fusion="gates"), "did you mean 'gate'"),
    (lambda _: timm.create_model("convneur_m1", token_strides=(4, 2, 0, 1)), "token_strides=.*out of range"),
    (lambda _: timm.create_model("convneur_m1", token_strides=(4, 2)), "too short"),
    (lambda _: timm.create_model("convneur_m1", memory_width=0), "memory_width=0 is out of range"),
    (lambda _: timm.create_model("convneur_m1", memory_width=30), "does not split into 4 heads"),
    (lambda _: timm.create_model("convneur_m1", memory={"sate": "mlp"}), "did you mean 'state'"),
    (lambda _: timm.create_model("convneur_m1", memory={"state": "mpl"}), "state='mpl' is not known"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_one_clear_line(m1, call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call(m1)
    assert "\n" not in str(caught.value)


def test_macs_grow_linearly_with_the_pixels():
    from torch.utils.flop_counter import FlopCounterMode

    counts = []
    for size in (224, 448):
        with torch.device("meta"):
            model = timm.create_model("convneur_m1").eval()
            with FlopCounterMode(display=False) as counter:
                model(torch.empty(1, 3, size, size))
        counts.append(counter.get_total_flops())
    assert 0.95 < math.log(counts[1] / counts[0], 4) < 1.02
