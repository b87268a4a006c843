"""The page of one image: its maps beside and over it, one stage at a time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from convneur.explain.explanation import Explanation
from convneur.explain.inspection import StageInspection
from convneur.explain.layers import Layer
from convneur.printing import html_text
from convneur.reports.page import Section, data_url, write_report

LONGEST = 1024  # pixels of the picture in the page
STYLE = """
.controls { display: flex; flex-wrap: wrap; gap: .4rem 2rem; position: sticky; top: 0; padding: .6rem 0; z-index: 1;
  background: Canvas; }
.controls input { vertical-align: middle; } .controls output { font-variant-numeric: tabular-nums; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(25rem, 100%), 1fr)); gap: 1.8rem 1.6rem; }
.cards[hidden] { display: none; }
.card { margin: 0; min-width: 0; } .card figcaption { min-height: 4.8em; font-size: .92rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem; }
.frame { position: relative; overflow: hidden; }
.alone { background: repeating-linear-gradient(45deg, #8886 0 3px, #8882 3px 9px); }
.frame img { position: absolute; left: 0; top: 0; max-width: none; background: none; border-radius: 0;
  image-rendering: pixelated; }
.under img { opacity: var(--strength, .6); }
.ramp { height: .7rem; margin: .5rem .8rem 0; border-radius: 2px; }
.ticks { position: relative; height: 1.4rem; margin: 0 .8rem; font-size: .8rem; }
.ticks span { position: absolute; transform: translateX(-50%); }
.range { margin: 0; font-size: .85rem; opacity: .75; }
"""
SCRIPT = """
const stage = document.getElementById('stage'), strength = document.getElementById('strength');
function show() {
  document.getElementById('number').textContent = stage.value;
  for (const cards of document.querySelectorAll('[data-stage]')) cards.hidden = cards.dataset.stage !== stage.value;
}
stage.addEventListener('input', show);
strength.addEventListener('input', () =>
  document.documentElement.style.setProperty('--strength', strength.value / 100));
show();
"""


def write_page(
    path: Path, title: str, summary: str, told: Explanation, classes: Sequence[str], notes: Sequence[str], last: str
) -> None:
    """Write the page, whole or not at all; it loads nothing from elsewhere.

    Args:
        path: Of the file; its folder must exist.
        title: Of the page.
        summary: First paragraph.
        told: What was seen.
        classes: Names, of a classifier.
        notes: What else the reader must know.
        last: Last line: the command and versions.
    """
    sections = [
        Section("The image", " ".join(["As the model takes it.", *notes]), markup=_head(told)),
        Section(
            "Stage by stage",
            "Left the map alone, right over the image. All gates have one scale; the other maps have their own.",
            markup=_stages(told),
            table=_stage_rows(told),
        ),
        Section(
            "The whole model",
            "Both receptive fields are this image's, and on one scale.",
            markup=_cards([layer for group in told.whole_layers() for layer in group], told.picture),
        ),
    ]
    if told.answers is not None:
        sections += _answers(told, classes)
    write_report(path, title, summary, sections, last)


def _head(told: Explanation) -> str:
    """The picture, which is in the page once and is a background wherever maps lie over it."""
    picture = told.picture
    _, height, width = picture.shape
    pixels = Image.fromarray((picture.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    pixels.thumbnail((LONGEST, LONGEST))
    buffer = io.BytesIO()
    pixels.save(buffer, "JPEG", quality=90)
    address = data_url(buffer.getvalue(), "jpeg")
    style = f"{STYLE}.frame {{ aspect-ratio: {width} / {height}; }}"
    style += f".under {{ background: url({address}) 0 0 / 100% 100%; }}"
    return (
        f'<style>{style}</style><div class="frame under" style="max-width:20rem" role="img" aria-label="image"></div>'
    )


def _stages(told: Explanation) -> str:
    stages = told.stage_layers()
    controls = (
        '<div class="controls"><label>stage '
        f'<input id="stage" type="range" min="1" max="{len(stages)}" value="1"> '
        f'<output id="number">1</output> of {len(stages)}</label>'
        "<label>strength of the maps over the image "
        '<input id="strength" type="range" min="0" max="100" value="60"></label></div>'
    )
    cards = [_cards(layers, told.picture, f' data-stage="{number}"') for number, layers in enumerate(stages, start=1)]
    return f"{controls}{''.join(cards)}<script>{SCRIPT}</script>"


def _cards(layers: Sequence[Layer], picture: Tensor, attributes: str = "") -> str:
    return f'<div class="cards"{attributes}>{"".join(_card(layer, picture) for layer in layers)}</div>'


def _card(layer: Layer, picture: Tensor) -> str:
    buffer = io.BytesIO()
    Image.fromarray(layer.scale.paint(layer.values)).save(buffer, "PNG")
    share = [100 * covered / side for covered, side in zip(layer.covered, picture.shape[1:], strict=True)]
    shown = (
        f'<img alt="{html_text(layer.title)}" style="height:{share[0]:.4f}%;width:{share[1]:.4f}%" '
        f'src="{data_url(buffer.getvalue())}">'
    )
    ticks = "".join(
        f'<span style="left:{100 * float(layer.scale.norm(number)):.2f}%">{written}</span>'
        for number, written in layer.scale.ticks()
    )
    return (
        f'<figure class="card"><figcaption><b>{html_text(layer.title)}</b><br>{html_text(layer.about)}</figcaption>'
        f'<div class="pair"><div class="frame alone">{shown}</div><div class="frame under">{shown}</div></div>'
        f'<div class="ramp" style="background:linear-gradient(to right,{",".join(layer.scale.ramp())})"></div>'
        f'<div class="ticks">{ticks}</div><p class="range">{layer.range}</p></figure>'
    )


def _stage_rows(told: Explanation) -> list[list[str]]:
    rows = [["stage", "tokens", "pixels a token", "gates", "mean", "mean size of written", "mean surprise"]]
    for number, stage in enumerate(told.inspection.stages, start=1):
        height, width = stage.gate.shape[1:]
        rows.append(
            [
                str(number),
                f"{height} x {width}",
                str(stage.stride * stage.token_stride),
                f"{float(stage.gate.min()):.3f} to {float(stage.gate.max()):.3f}",
                f"{float(stage.gate.mean()):.3f}",
                "" if stage.written is None else f"{float(stage.written.abs().mean()):.4f}",
                _mean_surprise(stage),
            ]
        )
    return rows


def _mean_surprise(stage: StageInspection) -> str:
    if stage.surprise is None:
        return ""
    return "never written" if stage.surprise.isnan().all() else f"{float(stage.surprise.nanmean()):.3g}"


def _answers(told: Explanation, classes: Sequence[str]) -> list[Section]:
    answers = told.answers
    assert answers is not None
    best = answers.probabilities.topk(min(5, len(classes)))
    rows = [["class", "probability"]]
    rows += [[classes[i], f"{p:.1%}"] for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
    first = classes[answers.top]
    changes = [["stage", "memory unwritten", "the same everywhere"]]
    for number, flat in enumerate(answers.flat):
        silent = "" if answers.unwritten is None else f"{100 * answers.change(answers.unwritten[number]):+.2f} points"
        changes.append([str(number + 1), silent, f"{100 * answers.change(flat):+.2f} points"])
    return [
        Section("Answers", "", table=rows),
        Section(
            "Answers without a stage's memory",
            f"By how much the probability of '{first}' changes when the global branch of one stage answers as if "
            "nothing was written, or everywhere what it answers on average.",
            table=changes,
        ),
    ]
