"""The page from its first check to Ctrl-C."""

from __future__ import annotations

import importlib.util
import os
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm

from convneur.app.accounts import Accounts
from convneur.app.host_middleware import address, host_name
from convneur.app.limits import Limits
from convneur.devices import device_for
from convneur.files import StrPath
from convneur.interrupts import Interrupts
from convneur.models import VARIANTS
from convneur.models.registry_utils import no_such_model
from convneur.printing import Console, printable, status
from convneur.python_calls import python_call

NEEDS = "the page needs the package gradio; pip install 'convneur[app]'"


@python_call()
def serve(
    models: Sequence[str],
    host: str,
    port: int,
    opened: Callable[[str], Any],
    *,
    allowed_hosts: Sequence[str] = (),
    auth: StrPath | None = None,
    **limits: Any,
) -> None:
    """Show the page until Ctrl-C or SIGTERM.

    Args:
        models: Folders of runs or models, ``hf-hub:USER/NAME``, or names of variants, with random weights.
        host: Address to listen on. One that other machines reach needs ``auth`` or ``allowed_hosts``.
        port: To listen on; 0 for any that is free.
        opened: Opens one of the models; see `convneur.app.service.Service`.
        allowed_hosts: Names by which browsers may ask for the page, beside localhost.
        auth: File with a line user:password for each who may use the page.
        **limits: See `convneur.app.limits.Limits`.

    Raises:
        ImportError: If gradio is missing.
        ValueError: For settings that do not do.
        OSError: If the address cannot be listened on.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ImportError(NEEDS)
    from convneur.app.server import PageServer, listen

    hosts = [host_name(name) for name in allowed_hosts]
    accounts = None if auth is None else Accounts.read(Path(auth))
    console = Console(stderr=True)
    if auth is not None and Path(auth).stat().st_mode & 0o004:
        console.print(f"everybody on this machine can read {auth}; chmod 600 keeps it to you")
    with (
        Interrupts() as interrupts,
        listen(host, port) as listener,
        tempfile.TemporaryDirectory(prefix="convneur-app-") as folder,
    ):
        check_reach(listener, host, restricted=bool(hosts or accounts))
        _set_environment(folder)
        with status("Loading PyTorch"):
            from convneur.app.service import Service
            from convneur.app.uploads import Uploads

            most, sources = Limits(**limits), names_of(models)
            from convneur.app.page import build_page, build_server

            service, uploads = Service(sources, opened, most, device_for()), Uploads(Path(folder), 4 * most.queue)
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


def check_reach(listener: socket.socket, host: str, restricted: bool) -> None:
    """Refuse an address that other machines reach, unless something says who may use the page.

    Raises:
        ValueError: One line that says what to give.
    """
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
