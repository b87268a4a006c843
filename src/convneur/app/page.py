"""The page, and its endpoint for programs. This file alone imports gradio.

It reads the environment when it is imported: see `convneur.cli.app`.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi.middleware import Middleware
from PIL import Image

from convneur.app.door import Door, client_of
from convneur.app.limits import Limits, RateLimit
from convneur.app.service import Service
from convneur.printing import html_text, markdown_code, printable

STAGES = 4  # that every variant has
KEPT_SECONDS = 600  # for which files of clients and pictures made of them are kept
FONTS = ["system-ui", "sans-serif"]
STYLE = ".gradio-container {max-width: 84rem !important; margin: 0 auto !important;} footer {opacity: .7;}"
LEAD = """# ConvNeur: what did the memory do?
Drop an image. Over it, stage by stage, stand the gates that the memory answered with, what writing the image into it
changed about them, and what surprised it; beside it, what the model says, and its time with and without memory.
"""
MAPS = """**gate**: 0 to 1, blue closed, red open; mean over the channels, and the channel that varies most.
**written**: what this image's content changed about the gate, in the channel that it changes most. **surprise**: how
far off the memory was about each token. Above over the image, below alone. They compare places of an image, and do not
say what is important.
"""


def build_page(service: Service) -> gr.Blocks:
    """The page of a service; its endpoint is ``/explain``."""
    rate = RateLimit(service.limits.per_minute)

    def explain(file: bytes | None, model: str, request: gr.Request) -> tuple[Any, ...]:
        try:
            if file is None:
                raise ValueError("no image given; drop one, or upload it first")
            rate.admit(client_of(request.client))
            told = service.explain(file, model)
        except (ValueError, OSError) as error:
            line = html_text(" ".join(str(error).split()), quote=False)  # the page takes it for HTML
            raise gr.Error(line, print_exception=False) from error
        strips: list[Any] = [Image.open(io.BytesIO(strip)) for strip in told.strips[:STAGES]]
        strips += [None] * (STAGES - len(strips))
        return told.numbers, told.picture, *strips, _label(told.numbers), _words(told.numbers)

    with gr.Blocks(title="ConvNeur", delete_cache=(KEPT_SECONDS, KEPT_SECONDS), analytics_enabled=False) as page:
        gr.Markdown(LEAD)
        with gr.Row(equal_height=True):
            with gr.Column():
                file = gr.File(label="Image", type="binary", file_types=["image"], height=200)
                model = gr.Dropdown(list(service.names), value=service.names[0], label="Model")
                button = gr.Button("Look inside", variant="primary")
            picture = gr.Image(label="As the model takes it", format="png", height=330, buttons=["fullscreen"])
            with gr.Column():
                answers = gr.Label(label="Answers")
        words = gr.Markdown()
        strips = []
        with gr.Tabs():
            for stage in range(1, STAGES + 1):
                with gr.Tab(f"Stage {stage}"):
                    strips.append(
                        gr.Image(
                            label=f"Maps of stage {stage}",
                            show_label=False,
                            format="png",
                            buttons=["fullscreen", "download"],
                        )
                    )
        gr.Markdown(MAPS)
        with gr.Accordion("Numbers", open=False):
            numbers = gr.JSON(label="As programs get them")
        gr.on(
            [button.click, file.upload],
            explain,
            [file, model],
            [numbers, picture, *strips, answers, words],
            api_name="explain",
            concurrency_limit=1,
        )
    page.queue(max_size=service.limits.queue, api_open=False, default_concurrency_limit=1)
    return page


def start(page: gr.Blocks, host: str, port: int, limits: Limits, uploads: Path) -> str:
    """Serve a page from other threads of this process until it is closed; its address.

    Args:
        page: See `build_page`.
        host: Address to listen on.
        port: To listen on.
        limits: Of files and of how many may be sent.
        uploads: Folder that gradio keeps files in.
    """
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=limits.max_bytes,
        app_kwargs={"middleware": [Middleware(Door, uploads=uploads, limits=limits)]},
        footer_links=["api"],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        num_workers=0,
        theme=gr.themes.Default(font=FONTS, font_mono=["ui-monospace", "monospace"]),  # none is loaded from the web
        css=STYLE,
    )
    return address


def _label(numbers: dict[str, Any]) -> dict[str, float] | str:
    """What a classifier says, or why nothing is said."""
    if numbers["answers"]:
        return {printable(each["label"]): each["probability"] for each in numbers["answers"]}
    return "no classifier" if numbers["trained"] else "not trained"


def _words(numbers: dict[str, Any]) -> str:
    """Time, notes and a table of the stages, as Markdown."""
    height, width = numbers["image_size"]
    lines = [f"{_time(numbers['latency'])} {' '.join(numbers['notes'])}"]
    if numbers["stages"]:
        lines += ["", "| stage | tokens | pixels a token | mean gate | mean size of written | mean surprise |"]
        lines.append("|---|---|---|---|---|---|")
    for number, stage in enumerate(numbers["stages"], start=1):
        rows, columns = stage["grid"]
        written, surprise = stage["written"] or {}, stage["surprise"] or {}
        cells = [str(number), f"{rows} x {columns}", str(stage["token_pixels"]), f"{stage['gate']['mean']:.3f}"]
        cells += [_number(written.get("mean_size")), _number(surprise.get("mean"))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([f"{markdown_code(numbers['architecture'])} at {width} x {height} px. {lines[0]}", *lines[1:]])


def _time(latency: dict[str, Any]) -> str:
    how = f"medians of {latency['rounds']} rounds, batch 1, on {latency['device']}"
    if latency["twin_milliseconds"] is None:
        return f"**{latency['milliseconds']:.1f} ms** ({how}); it has no memory to leave out."
    low, high = latency["over_twin_quartiles"]
    return (
        f"**{latency['milliseconds']:.1f} ms**, its twin without memory {latency['twin_milliseconds']:.1f} ms: "
        f"**{latency['over_twin']:.2f} times** (quartiles {low:.2f} to {high:.2f}; {how})."
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
