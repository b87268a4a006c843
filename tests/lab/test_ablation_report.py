"""How an ablation is told: means, spreads, and which models nobody beats."""

import itertools

import pytest

from convneur.lab.ablation_report import HEAD, markdown, picture, rows_of

RUNS = [
    {"cell": name, "seed": seed, "accuracy": accuracy}
    for name, accuracies in {"a": (0.5, 0.6), "b": (0.7, 0.7), "slow": (0.6, 0.6), "equal": (0.55, 0.55)}.items()
    for seed, accuracy in enumerate(accuracies)
]
COSTS = {
    name: {"params": 1_000_000, "macs": 2_000_000, "inference": inference, "training": 1.0}
    for name, inference in {"a": 1.0, "b": 1.5, "slow": 2.0, "equal": 1.0, "not run": 1.0}.items()
}


def test_rows_hold_mean_spread_and_front():
    rows = {row.name: row for row in rows_of(RUNS, COSTS)}
    assert list(rows) == ["a", "b", "slow", "equal"]
    assert rows["a"].mean == pytest.approx(0.55)
    assert rows["a"].spread == pytest.approx(0.0707, abs=1e-4)
    assert {name: row.best for name, row in rows.items()} == {"a": True, "b": True, "slow": False, "equal": True}
    (single,) = rows_of(RUNS[:1], COSTS)
    assert single.spread is None


def test_the_table_is_markdown_and_the_picture_names_every_model():
    rows = rows_of(RUNS, COSTS)
    text = markdown(rows, "How.")
    assert "| a * | 55.00 ± 7.07 % | 2 | 1.00 M | 2.0 M | 1.00 x | 1.00 x |" in text
    assert all(line.count("|") == len(HEAD) + 1 for line in text.splitlines() if line.startswith("|"))
    axis = picture(rows).axes[0]
    assert sorted(text.get_text() for text in axis.texts) == sorted(row.name for row in rows)
    levels = sorted(text.xyann[1] for text in axis.texts)
    assert levels[0] > 0
    assert levels[-1] < 1.1
    assert all(low + 0.03 < high for low, high in itertools.pairwise(levels))
