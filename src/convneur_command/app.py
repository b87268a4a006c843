"""``convneur app``: a page to drop images on."""

from __future__ import annotations

import atexit
import importlib.util
import os
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

NEEDS = "the page needs the package gradio; pip install 'convneur[app]'"


def app(
    model: tuple[str, ...] = ("convneur_m1",),
    host: str = "127.0.0.1",
    port: int = 7860,
    allowed_hosts: tuple[str, ...] = (),
    auth: Path | None = None,
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
        host: Address to listen on. One that other machines reach needs --auth or --allowed-hosts.
        port: To listen on; 0 for any that is free.
        allowed_hosts: Names by which browsers may ask for the page, beside localhost; the address it listens on if none
            is given.
        auth: File with a line user:password for each who may use the page.
        max_megapixels: Larger images are refused.
        max_mb: Larger files are refused.
        per_minute: Images that one address may send in a minute.
        max_queue: Requests that may wait; more are refused.
    """
    from convneur.interrupts import Interrupts
    from convneur.printing import Console

    if importlib.util.find_spec("gradio") is None:
        raise ImportError(NEEDS)
    from convneur.app.accounts import Accounts
    from convneur.app.host_middleware import host_name
    from convneur.app.server import PageServer, listen

    hosts = [host_name(name) for name in allowed_hosts]
    accounts = None if auth is None else Accounts.read(auth)
    console = Console(stderr=True)
    if auth is not None and auth.stat().st_mode & 0o004:
        console.print(f"everybody on this machine can read {auth}; chmod 600 keeps it to you")
    with (
        Interrupts() as interrupts,
        listen(host, port) as listener,
        tempfile.TemporaryDirectory(prefix="convneur-app-") as folder,
    ):
        check_reach(listener, host, restricted=bool(hosts or accounts))
        _set_environment(folder)
        with console.status("Loading PyTorch"):
            from convneur.app.limits import Limits
            from convneur.app.service import Service
            from convneur.app.uploads import Uploads
            from convneur.devices import device_for
            from convneur.models import VARIANTS
            from convneur.tasks.inspection import open_any

            limits, sources = Limits(max_megapixels, max_mb, per_minute, max_queue), names_of(model)
            from convneur.app.page import build_page, build_server

            service, uploads = Service(sources, open_any, limits, device_for()), Uploads(Path(folder), 4 * max_queue)
            asgi = build_server(build_page(service, uploads), service, uploads, hosts, accounts)
        server = PageServer(asgi, listener)
        server.start()
        for name in sources.values():
            if name in VARIANTS and not Path(name).exists():
                console.print(f"{name} has no trained weights: its maps show what can be seen, and mean nothing")
        console.print(f"{address_of(listener, host)}   (Ctrl-C ends it)")
        interrupts.wait = True  # from here on a signal ends the page in good order
        while interrupts.number is None:
            time.sleep(0.1)
        server.close()
        uploads.close()
    _leave()
    return 0


def _leave() -> None:
    """End the process at once, with exit code 0.

    A model at work can be neither stopped nor waited for, and with PyTorch loaded Python's own end takes seconds.
    """
    from convneur.printing import flush

    atexit._run_exitfuncs()
    flush()
    os._exit(0)


def check_reach(listener: socket.socket, host: str, restricted: bool) -> None:
    """Refuse an address that other machines reach, unless something says who may use the page.

    Raises:
        ValueError: One line that says what to give.
    """
    from convneur.app.host_middleware import address

    bound = address(listener.getsockname()[0])
    if not (restricted or (bound is not None and bound.is_loopback)):
        raise ValueError(
            f"--host {host} opens the page to other machines; give --auth FILE with who may use it, "
            "or --allowed-hosts NAME with the names that it is reached by"
        )


def address_of(listener: socket.socket, host: str) -> str:
    """Where a browser on this machine finds the page."""
    if host in ("0.0.0.0", "::"):
        host = "localhost"
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/"


def _set_environment(folder: str) -> None:
    """What gradio reads when it is imported: our settings alone, files in the folder, nothing sent home."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False", "GRADIO_TEMP_DIR": folder}


def names_of(models: Sequence[str]) -> dict[str, str]:
    """What clients call each model: the last part of its path, with a number behind it where two are alike.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If none is given, or a file.
    """
    import timm

    from convneur.models.registry_utils import no_such_model
    from convneur.printing import printable

    names: dict[str, str] = {}
    for model in dict.fromkeys(models):
        path = Path(model).expanduser()
        if not (path.exists() or model.startswith(("hf-hub:", "hf_hub:")) or timm.is_model(model)):
            raise no_such_model(model, timm.list_models())
        if path.is_file():
            raise ValueError(f"{model} is a file; the page looks into folders of runs and models, give one of those")
        name = stem = printable((path.resolve().name if path.exists() else model) or model)
        number = 1
        while name in names:
            number += 1
            name = f"{stem} ({number})"
        names[name] = model
    if not names:
        raise ValueError("no model given; give folders or names behind --model")
    return names
