"""``convneur app``: a page to drop images on."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from threading import Event

NEEDS = "the page needs the package gradio; pip install 'convneur[app]'"


def app(
    model: tuple[str, ...] = ("convneur_m1",),
    host: str = "127.0.0.1",
    port: int = 7860,
    max_megapixels: float = 25.0,
    max_mb: float = 20.0,
    per_minute: int = 60,
    max_queue: int = 64,
) -> int:
    """Show a page to drop an image on: answers, gates and surprise of each stage, time with and without memory.

    Only this machine can open it, unless --host says otherwise; docs/app.md tells what to put in front of it then, and
    how programs ask. Ctrl-C ends it.

    Args:
        model: Folders of runs or models, hf-hub:USER/NAME, or names such as convneur_m1, with random weights. No others
            can be asked for.
        host: Address to listen on.
        port: To listen on; 0 for any that is free.
        max_megapixels: Larger images are refused.
        max_mb: Larger files are refused.
        per_minute: Images that one address may send in a minute.
        max_queue: Requests that may wait; more are refused.
    """
    from convneur.printing import Console

    if importlib.util.find_spec("gradio") is None:
        raise ImportError(NEEDS)
    port = check_port(host, port)
    console = Console(stderr=True)
    with console.status("Loading PyTorch"):
        from convneur.app.limits import Limits
        from convneur.app.service import Service
        from convneur.cli.explaining import open_any
        from convneur.models import VARIANTS
        from convneur.tasks.evaluation import device_for

        limits, sources = Limits(max_megapixels, max_mb, per_minute, max_queue), names_of(model)
    with tempfile.TemporaryDirectory(prefix="convneur-app-") as folder:
        # Read when gradio is imported: nothing is sent home, and what clients upload goes when this process does.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
        from convneur.app.page import build_page, start

        page = build_page(Service(sources, open_any, limits, device_for()))
        address = start(page, host, port, limits, Path(folder))
        for name in sources.values():
            if name in VARIANTS and not Path(name).exists():
                console.print(f"{name} has no trained weights: its maps show what can be seen, and mean nothing")
        console.print(f"{address}   (Ctrl-C ends it)")
        _wait()
        page.close(verbose=False)
    return 0


def check_port(host: str, port: int) -> int:
    """Try to listen, because gradio tells neither why it cannot nor on which address, and does not know port 0.

    Returns:
        The port; one that is free for 0.

    Raises:
        ValueError: If there is no such port.
        OSError: If it cannot be listened on, in one line that says what to do.
    """
    if not 0 <= port <= 65535:  # the C library would take it for another one
        raise ValueError(f"--port {port} is out of range; give 0 to 65535")
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(where)
            free: int = trial.getsockname()[1]
            return free
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"cannot listen on {host}, port {port} ({reason}); give another --port or --host") from error


def names_of(models: Sequence[str]) -> dict[str, str]:
    """What clients call each model: the last part of its path, with a number behind it where two are alike.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If none is given.
    """
    import timm

    from convneur.models.names import no_such_model
    from convneur.printing import printable

    names: dict[str, str] = {}
    for model in dict.fromkeys(models):
        path = Path(model).expanduser()
        if not (path.exists() or model.startswith(("hf-hub:", "hf_hub:")) or timm.is_model(model)):
            raise no_such_model(model, timm.list_models())
        name = stem = printable((path.resolve().name if path.exists() else model) or model)
        number = 1
        while name in names:
            number += 1
            name = f"{stem} ({number})"
        names[name] = model
    if not names:
        raise ValueError("no model given; give folders or names behind --model")
    return names


def _wait() -> None:
    """Until Ctrl-C, or the signal with which services are ended."""
    ended = Event()
    before = [signal.signal(number, lambda *_: ended.set()) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        ended.wait()
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
