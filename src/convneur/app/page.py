"""The page, and its endpoint for programs. This file alone imports gradio.

It reads the environment when it is imported: see `convneur.app.serve`.
"""

from __future__ import annotations

import asyncio
import io
import traceback
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import gradio as gr
from anyio.to_thread import run_sync
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from PIL import Image

from convneur.app.asgi import Server
from convneur.app.host_middleware import HostMiddleware
from convneur.app.service import Service
from convneur.app.upload_middleware import UploadMiddleware, upload_of
from convneur.app.uploads import SWEEP_SECONDS, Uploads
from convneur.printing import html_text, markdown_code, printable

Auth = Callable[[str, str], bool]
STAGES = 4  # that every variant has
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


def build_page(service: Service, uploads: Uploads) -> gr.Blocks:
    """The page of a service; its endpoint is ``/explain``."""

    def explain(_file: None, model: str, request: gr.Request) -> tuple[Any, ...]:
        """Answer a question, whose file `UploadMiddleware` has kept back."""
        try:
            upload = upload_of(request.request.scope) if request.request else None
            if upload is None:
                raise ValueError("no image given; drop one, or upload it first")
            told = service.explain(uploads.take(upload), model)
            pictures = [uploads.picture(png) for png in (_png(told.picture), *told.strips[:STAGES])]
        except (ValueError, OSError) as error:
            line = html_text(" ".join(str(error).split()), quote=False)  # the page takes it for HTML
            raise gr.Error(line, print_exception=False) from error
        except Exception as error:  # a fault of ours: the client gets a line, too
            traceback.print_exc()
            raise gr.Error("the model failed; the log of the page says how", print_exception=False) from error
        strips = pictures[1:] + [None] * (STAGES + 1 - len(pictures))
        return told.numbers, pictures[0], *strips, _label(told.numbers), _words(told.numbers)

    with gr.Blocks(title="ConvNeur", analytics_enabled=False) as page:
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
        answered = gr.on(
            [button.click, file.upload],
            explain,
            [file, model],
            [numbers, picture, *strips, answers, words],
            api_name="explain",
            concurrency_limit=1,
        )
        answered.success(None, None, [file], js="() => null")  # in the browser: an upload is there for one answer
    page.queue(max_size=service.limits.queue, api_open=False, default_concurrency_limit=1)
    return page


def build_server(
    page: gr.Blocks, service: Service, uploads: Uploads, hosts: Iterable[str], auth: Auth | None
) -> Server:
    """What answers the requests to a page.

    Args:
        page: See `build_page`.
        service: What it shows.
        uploads: Its files.
        hosts: Names that it answers to beside those of the loopback; see `HostMiddleware`.
        auth: Says whether a user and a password are right; None lets everybody in.
    """

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(_sweep(page, uploads))
        yield
        sweeping.cancel()

    served = gr.mount_gradio_app(
        FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None),
        page,
        path="",
        app_kwargs={"openapi_url": None, "exception_handlers": {RequestValidationError: _invalid}},
        auth=auth,
        root_path="",
        allowed_paths=[],
        blocked_paths=[],
        show_error=False,
        max_file_size=service.limits.max_bytes,
        footer_links=["api"],
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        theme=gr.themes.Default(font=FONTS, font_mono=["ui-monospace", "monospace"]),  # none is loaded from the web
        css=STYLE,
    )
    (function,) = (number for number, each in page.fns.items() if each.api_name == "explain")
    waiting = page._queue.pending_messages_per_session
    inner = UploadMiddleware(
        served, uploads, service.limits, service.names, function, lambda session: session in waiting
    )
    return HostMiddleware(inner, hosts)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    """What FastAPI refuses, in one line as everything else is."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    line = f"{first['loc'][-1]} is refused ({first['msg']})"
    return JSONResponse({"detail": line, "error": line}, 422)


async def _sweep(page: gr.Blocks, uploads: Uploads) -> None:
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        await run_sync(uploads.sweep)
        for created in page.temp_file_sets:  # gradio's own list of them grows without end
            created.clear()


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


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
    if latency["baseline_milliseconds"] is None:
        return f"**{latency['milliseconds']:.1f} ms** ({how}); it has no memory to leave out."
    low, high = latency["over_baseline_quartiles"]
    return (
        f"**{latency['milliseconds']:.1f} ms**, its baseline without memory {latency['baseline_milliseconds']:.1f} ms: "
        f"**{latency['over_baseline']:.2f} times** (quartiles {low:.2f} to {high:.2f}; {how})."
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
