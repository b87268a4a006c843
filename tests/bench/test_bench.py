import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from convneur.bench import count_cost, throughput
from convneur.models import VARIANTS, create_model

# The budget of the family at 224 px: millions of parameters, billions of multiply-accumulates, everything included.
BUDGET = {
    "default": [(3.920, 0.5787), (5.541, 0.8248), (9.617, 1.447), (16.485, 2.571)],
    "linear": [(3.955, 0.5842), (5.590, 0.8326), (9.704, 1.461), (16.618, 2.592)],
    "mlp": [(4.151, 0.695), (5.872, 0.992), (10.207, 1.745), (17.407, 3.035)],
    "published": [(4.10, 1.36), (5.80, 1.95), (10.08, 3.44), (17.21, 5.68)],
}
ARGUMENTS = {
    "default": {},
    "linear": {"preset": "linear"},
    "mlp": {"memory": {"state": "mlp"}},
    "published": {"preset": "published"},
}


@pytest.mark.parametrize("kind", BUDGET)
@pytest.mark.parametrize("index", range(4))
def test_parameters_and_macs_are_within_the_budget(kind, index):
    cost = count_cost(lambda: create_model(f"convneur_m{index + 1}", **ARGUMENTS[kind]))
    params, macs = BUDGET[kind][index]
    bound = 0.03 if kind == "published" else 0.001  # theirs were worked out from rounded figures
    assert cost.params / 1e6 == pytest.approx(params, rel=bound)
    assert cost.macs / 1e9 == pytest.approx(macs, rel=bound)
    assert cost.macs == cost.macs_local + cost.macs_memory + cost.macs_rest
    assert cost.tokens == ((3136, 784, 196, 49) if kind == "published" else (196, 196, 196, 49))


@pytest.mark.parametrize(("name", "variant"), VARIANTS.items())
def test_local_only_has_the_parameters_and_macs_of_its_baseline(name, variant):
    cost = count_cost(lambda: create_model(name, global_placement="none"))
    baseline = timm.create_model(variant.baseline).eval()
    assert cost.params == sum(p.numel() for p in baseline.parameters())
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        baseline(torch.randn(1, 3, 224, 224))
    assert cost.macs == counter.get_total_flops() // 2
    assert (cost.macs_memory, cost.params_memory) == (0, 0)


def test_the_memory_is_counted_by_hand():
    """One memory of slots: N tokens, D its width, d that of a head."""
    small = {"dims": (40,), "depths": (1,), "token_strides": (1,), "memory_width": 16}
    cost = count_cost(lambda: create_model("convneur_m1", **small), 32)
    tokens, channels, width, heads, head = 64, 40, 16, 4, 4
    projections = channels * width + width * (3 * width + heads) + 2 * channels * width
    write, read = width * head, width * head
    assert cost.macs_memory == tokens * (projections + write + read)


def test_throughput_takes_turns_and_is_positive():
    calls = []

    class Spy(torch.nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, x):
            calls.append(self.name)
            return x

    speed = throughput({"a": Spy("a"), "b": Spy("b")}, torch.rand(4, 3, 8, 8), rounds=3)
    assert calls == ["a", "a", "b", "b"] * 3, "what came before is not charged to the run that counts"
    assert all(value > 0 for value in speed.values())
