"""Colours say what the numbers are, and maps lie where they belong."""

import json
import math

import pytest
import torch

from convneur.explain.explanation import Explanation, explain_image
from convneur.explain.figures import overlays
from convneur.explain.inspection import Inspection, StageInspection
from convneur.explain.layers import GATES, SLOPES, Layer, Scale
from convneur.explain.page import write_page
from tests.models.builders import create

SMALL = {"dims": (6, 8), "depths": (1, 1), "token_strides": (2, 1), "memory_width": 4, "num_classes": 0}


def test_a_gate_of_one_half_has_no_colour_and_the_sides_differ():
    low, middle, high = GATES.paint(torch.tensor([[0.1, 0.5, 0.9]]))[0, :, :3].astype(int)
    assert middle.min() > 240
    assert low[2] > low[0] + 80  # blue
    assert high[0] > high[2] + 80  # red


def test_scales_end_where_they_say():
    values = torch.tensor([[-0.2, math.nan], [0.1, 0.0]])
    assert (Scale.around_zero(values.nan_to_num()).low, Scale.around_zero(values.nan_to_num()).high) == pytest.approx(
        (-0.2, 0.2)
    )
    assert (Scale.between(values).low, Scale.between(values).high) == pytest.approx((-0.2, 0.1))
    assert Scale.between(values).paint(values)[..., 3].tolist() == [[255, 0], [255, 255]]
    assert Scale.between(torch.full((2, 2), 3.0)).high > 3
    assert Scale.between(torch.full((2, 2), math.nan)).ticks()[-1] == (1.0, "1")
    assert [written for _, written in SLOPES.ticks()] == ["0.0001", "0.001", "0.01", "0.1", "1"]
    shades = SLOPES.paint(torch.tensor([[1e-6, 1e-4, 1.0, 0.0]]))[0].tolist()
    assert shades[0] == shades[1] == shades[3] != shades[2]


def test_a_map_that_does_not_reach_the_edge_is_not_stretched_to_it():
    layer = Layer("key", "title", "about", torch.rand(2, 3), (64, 96), GATES)
    figure = overlays(torch.rand(3, 70, 100), [layer], ["title"])
    photograph, over, alone, bar = figure.axes
    assert photograph.images[0].get_extent() == over.images[0].get_extent() == [0, 100, 70, 0]
    assert over.images[1].get_extent() == alone.images[0].get_extent() == [0, 96, 64, 0]
    assert [axis.get_xlim() for axis in (photograph, over, alone)] == [(0, 100)] * 3
    assert [label.get_text() for label in bar.get_xticklabels()] == ["0", "0.5", "1"]


def test_tokens_that_are_never_written_are_left_open():
    model = create("convneur_m1", **SMALL, memory={"state": "linear", "read": "causal", "chunk_size": 15})
    image = torch.randn(1, 3, 40, 40)
    told = explain_image(model, image, torch.rand(3, 40, 40), classifies=False, cam=False)
    surprise = told.stage_layers()[0][-1]
    assert surprise.key == "surprise"
    assert "never writes" in surprise.about
    assert torch.equal(surprise.values.isnan().flatten().nonzero()[0], torch.tensor([60]))  # token 15 of 5 x 5: row 3
    numbers = told.numbers([])["stages"][0]["surprise"]
    assert numbers["never_written"] == 10
    assert sum(number is None for row in numbers["map"] for number in row) == 10


@pytest.mark.parametrize(
    ("arguments", "cards"),
    [
        ({"memory": {"state": "linear", "read": "causal", "chunk_size": 196}}, 6),
        ({"token_mixer": "se", "memory_width": 16}, 2),
    ],
)
def test_pages_of_what_is_never_written(arguments, cards, tmp_path):
    model = create("convneur_m1", **SMALL | arguments)
    told = explain_image(model, torch.randn(1, 3, 40, 40), torch.rand(3, 40, 40), classifies=False, cam=False)
    write_page(tmp_path / "page.html", "title", "summary", told, [], [], "last")
    page = (tmp_path / "page.html").read_text()
    assert page.count('<figure class="card">') == 2 * cards + 2
    assert page.count("never written") == (2 if "memory" in arguments else 0)
    numbers = json.loads(json.dumps(told.numbers([]), allow_nan=False))
    assert (numbers["stages"][0]["surprise"] is None) == ("token_mixer" in arguments)


def test_half_radius_is_counted_from_the_middle_of_the_last_map():
    """A ring of slopes 10 px around the middle of position 2 of 4, which stands on pixels 16 to 23."""
    stage = StageInspection(torch.rand(2, 4, 4), None, None, 8, 1, (4, 4))
    field = torch.zeros(33, 33)
    for row, column in ((9, 19), (30, 20), (19, 9), (20, 30)):
        field[row, column] = 1.0
    nothing = torch.zeros(33, 33)
    told = Explanation(torch.rand(3, 33, 33), Inspection((stage,)), (field, nothing), None, None).numbers([])
    assert told["receptive_field"]["half_radius_with_memory"] == pytest.approx(10.5, abs=0.1)
    assert told["receptive_field"]["half_radius_without"] is None
    assert told["receptive_field"]["share_beyond_convolutions"] == 1
    assert told["stages"][0]["surprise"] is told["stages"][0]["written"] is None
