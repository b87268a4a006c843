"""``convneur app``: a page to drop images on."""

from __future__ import annotations

import atexit
import os
from pathlib import Path
from typing import Any


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
    from convneur.app.serve import serve

    serve(
        model,
        host,
        port,
        _opened,
        allowed_hosts=allowed_hosts,
        auth=auth,
        megapixels=max_megapixels,
        megabytes=max_mb,
        per_minute=per_minute,
        queue=max_queue,
    )
    _leave()
    return 0


def _opened(model: str) -> Any:
    from convneur.tasks.inspection import open_any

    return open_any(model)


def _leave() -> None:
    """End the process at once, with exit code 0.

    A model at work can be neither stopped nor waited for, and with PyTorch loaded Python's own end takes seconds.
    """
    from convneur.printing import flush

    atexit._run_exitfuncs()
    flush()
    os._exit(0)
