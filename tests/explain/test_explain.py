import re

import pytest
import torch

from convneur.explain import gate_maps
from convneur.models import create_model
from convneur.reports import write_report
from convneur.reports.figures import confusion, curves, drawable, gallery, gates, marks
from convneur.reports.page import Section, write_atomic
from tests.models.builders import create


def test_gate_maps_are_what_the_blocks_multiply_with():
    model = create("convneur_m1").train()
    images = torch.randn(2, 3, 64, 64)
    maps = gate_maps(model, images)
    assert [tuple(m.shape) for m in maps] == [(2, 40, 4, 4), (2, 80, 4, 4), (2, 160, 4, 4), (2, 320, 2, 2)]
    x = model.eval().stem(images)
    block = model.stages[0].blocks[0]
    torch.testing.assert_close(maps[0], torch.sigmoid(block.global_branch(x)[0]))


def test_gate_maps_leave_the_model_as_it_was():
    model = create("convneur_m1").train()
    gate_maps(model, torch.randn(1, 3, 64, 64))
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())
    with pytest.raises(ValueError, match="1 channels"):
        gate_maps(model, torch.randn(1, 1, 64, 64))
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("arguments", [{"global_placement": "none"}, {"fusion": "add"}])
def test_no_gates_is_one_clear_line(arguments):
    with pytest.raises(ValueError, match="the model has no gates"):
        gate_maps(create_model("convneur_m1", **arguments), torch.randn(1, 3, 64, 64))


def test_a_new_gate_is_one_half():
    maps = gate_maps(create_model("convneur_m1"), torch.randn(1, 3, 64, 64))
    assert all((m == 0.5).all() for m in maps)


def test_report_is_self_contained_and_escaped(tmp_path):
    rows = [{"step": 1.0, "loss": 2.0}, {"step": 2.0, "loss": 1.0}]
    figures = [
        curves({"convneur": rows, "local-only": []}, {"loss": "training loss"}),
        confusion({"convneur": torch.eye(3)}, "abc"),
        gates(torch.rand(3, 8, 8), [torch.rand(4, 2, 2)] * 2),
        marks(torch.rand(2, 1, 16, 16), torch.ones(2, 2, 2), {"convneur": torch.rand(2, 2, 2)}),
    ]
    sections = [Section(f"Part {i}", "<b>", figure) for i, figure in enumerate(figures)]
    sections.append(Section("Table", "", table=[["a", "b"], ["<1>", "2"]]))
    write_report(tmp_path / "report.html", "Title", "Lead & more", sections, "note")
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert all(source.startswith("data:") for source in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert "Lead &amp; more" in page
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.filterwarnings("error")
def test_names_of_classes_are_drawn_as_they_are(tmp_path):
    """A tab has no glyph and is spelled out, and two $ would begin a formula, here one that is no formula."""
    names = ["n01440764\ttench", r"$\frac$", "\x07bell\n"]
    figures = [
        confusion({"convneur": torch.eye(3)}, names),
        gallery([torch.rand(3, 8, 8)] * 3, [drawable(name) for name in names]),
    ]
    write_report(tmp_path / "report.html", "Title", "", [Section("Part", "", figure) for figure in figures], "")
    drawn = [label.get_text() for label in figures[0].axes[0].get_xticklabels()]
    assert drawn == [r"n01440764\ttench", r"$\frac$", r"\x07bell\n"]


def test_atomic_write_keeps_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "metrics.json"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "new \ud800")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]
