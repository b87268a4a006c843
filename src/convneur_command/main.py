"""``convneur``: one verb per job."""

from __future__ import annotations

import difflib
import functools
import inspect
import io
import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from typing import Any

import tyro

from convneur_command.ablate import ablate_verb
from convneur_command.app import app
from convneur_command.bench import bench
from convneur_command.demo import demo
from convneur_command.embed import embed
from convneur_command.evaluate import eval_
from convneur_command.explain import explain
from convneur_command.export import export
from convneur_command.info import info
from convneur_command.predict import predict
from convneur_command.push import push
from convneur_command.stream import stream
from convneur_command.train import train_verb
from convneur_options import __version__
from convneur_options.renamed import with_new_values

TASKS = ("classification", "detection", "instance", "segmentation")
# Of other libraries
FOREIGN = {
    "train": {"--lr": "--optim.lr", "--lr0": "--optim.lr", "--device": "--fit.accelerator", "--batch": "--batch-size"},
    "eval": {"--batch": "--batch-size", "--imgsz": "--image-size", "--img-size": "--image-size"},
    "predict": {
        "--batch": "--batch-size",
        "--imgsz": "--image-size",
        "--img-size": "--image-size",
        "--conf": "--score",
    },
}
GROUPS = {
    "Train": ("demo", "train"),
    "Use": ("predict", "eval", "embed", "stream"),
    "Look": ("explain", "app", "info"),
    "Deploy": ("export", "push"),
    "Research": ("ablate", "bench"),
}


def verbs(arguments: Sequence[str]) -> dict[str, Callable[..., Any]]:
    """All verbs; the defaults of ``train`` are those of the recipe in the arguments."""
    return {
        "demo": demo,
        "train": train_verb(arguments),
        "eval": eval_,
        "predict": predict,
        "embed": embed,
        "stream": stream,
        "explain": explain,
        "app": app,
        "info": info,
        "ablate": ablate_verb(arguments),
        "bench": bench,
        "export": export,
        "push": push,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb.

    What a user can mend comes as one line on standard error and exit code 2; set ``CONVNEUR_TRACEBACK=1`` to see where
    it comes from. Ctrl-C and SIGTERM end every verb with one line, and exit code 130 or 143.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments == ["--version"]:
        sys.stdout.write(f"{__version__}\n")
        return 0
    if arguments in ([], ["-h"], ["--help"]):
        (sys.stdout if arguments else sys.stderr).write(overview())
        return 0 if arguments else 2
    mistaken = mistake(arguments)
    if mistaken is not None:
        sys.stderr.write(f"convneur: {mistaken}\n")
        return 2
    arguments = with_new_values(arguments, lambda line: sys.stderr.write(f"convneur: {line}\n"))
    boxed = io.StringIO()
    try:
        with redirect_stderr(boxed):
            run = tyro.extras.subcommand_cli_from_dict(
                {name: _later(verb) for name, verb in verbs(arguments).items()},
                prog="convneur",
                description="Efficient vision backbones with a neural memory.",
                args=arguments,
            )
    except SystemExit as done:
        if done.code:
            task = [word for word in arguments[1:2] if word in TASKS]
            sys.stderr.write(f"convneur: {unboxed(boxed.getvalue(), ' '.join(['convneur', arguments[0], *task]))}\n")
        raise
    sys.stderr.write(boxed.getvalue())  # warnings
    return _guarded(run)


def unboxed(told: str, command: str) -> str:
    """What tyro says of options in a box of several lines, as one line: what is wrong, and what to do."""
    told = "".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in told)
    framed = told.startswith("╭")  # else, where the output is not in UTF-8, a title over a line of dashes
    lines = [line.strip("│").rstrip() for line in told.splitlines() if line[:1] not in ("╭", "╰")]
    parts = re.split(r"\n +[─-]+\n", "\n".join(lines))[0 if framed else 1 :] or [told]
    verb = " ".join(command.split()[:2])
    first = re.sub(r" \(applied to [^)]*\)| Arguments are applied .*", "", " ".join(parts[0].split()))
    if first.startswith("Missing from"):
        flags = re.findall(r"^ {4,6}(-\S+|[A-Z]\S+)", parts[0], re.MULTILINE)
        needed = [flag if flag.startswith("-") else "an argument" for flag in flags]
        return f"{command} needs {' and '.join(needed)}; {command} --help tells what that is"
    first = first[:1].lower() + first[1:].rstrip(".")
    for option in re.split(r"^ {4,6}(?=-)", parts[1] if len(parts) > 2 else "", flags=re.MULTILINE)[1:]:
        if f"in {verb}" in option:  # others are of other verbs
            return f"{first}; did you mean {re.split('[ ,]', option)[0]}?"
    return f"{first}; {command} --help lists all options"


def overview() -> str:
    """All verbs by what they are for, each with the first sentence of its help."""
    known = verbs(())
    lines = ["usage: convneur VERB ...   convneur VERB --help says more, convneur --version which one this is", ""]
    for group, names in GROUPS.items():
        lines.append(f"{group}:")
        for name in names:
            told = inspect.cleandoc(known[name].__doc__ or "").split("\n\n")[0]
            lines += textwrap.wrap(
                told, 100, initial_indent=f"  {name:9}", subsequent_indent=" " * 11, break_on_hyphens=False
            )
        lines.append("")
    return "\n".join(lines)


def mistake(arguments: Sequence[str]) -> str | None:
    """What is wrong with the verb, or the task of ``train``, and what was meant; None if nothing is."""
    verb, *rest = arguments or [""]
    if verb and not verb.startswith("-") and verb not in (known := list(verbs(()))):
        return f"{ascii(verb)[1:-1]} is no verb; {_near(verb, known) or 'use one of ' + ', '.join(known)}"
    first = rest[0] if rest else ""
    if verb == "train" and first and not first.startswith("-") and first not in TASKS:
        shown = ascii(first)[1:-1]
        return f"{shown} is no task; {_near(first, TASKS) or f'write convneur train --data {shown}'}"
    foreign = FOREIGN.get(verb, {})
    flags = [word.partition("=")[0] for word in rest]
    return next((f"{flag} is called {foreign[flag]} here" for flag in flags if flag in foreign), None)


def _near(word: str, known: Sequence[str]) -> str | None:
    found = difflib.get_close_matches(word, known, 1)
    return f"did you mean {found[0]}?" if found else None


def _later(verb: Callable[..., Any]) -> Callable[..., Callable[[], Any]]:
    """The verb, which does nothing yet when it is called: the arguments are read before anything heavy is imported."""

    @functools.wraps(verb)
    def bound(*args: Any, **kwargs: Any) -> Callable[[], Any]:
        return functools.partial(verb, *args, **kwargs)

    return bound


def _guarded(run: Callable[[], Any]) -> int:
    from convneur.interrupts import Interrupts, exit_code
    from convneur.notes import AlreadyDone
    from convneur.printing import Console, guard_process

    guard_process()
    with Interrupts() as interrupts:
        try:
            code = run()
        except AlreadyDone as done:
            Console(stderr=True).print(f"convneur: {_line(done)}")
            return 0
        except (Exception, KeyboardInterrupt) as error:
            if interrupts.raised is not None and not isinstance(error, KeyboardInterrupt):
                error = interrupts.raised  # a library took it for a failure of what it imports
            if os.environ.get("CONVNEUR_TRACEBACK") or not _can_be_mended(error):
                raise
            Console(stderr=True).print(f"convneur: {_line(error)}")
            return exit_code(error) if isinstance(error, KeyboardInterrupt) else 2
        return int(code or 0)


def _can_be_mended(error: BaseException) -> bool:
    """Whether the user can do something about it; other errors of PyTorch are ours, and come with their traceback."""
    return isinstance(error, ValueError | OSError | ImportError | KeyboardInterrupt) or (
        isinstance(error, RuntimeError) and _remedy(error) is not None
    )


def _line(error: BaseException) -> str:
    reason = str(getattr(error, "flags", error))  # what was called from Python names them as Python does
    if "in DataLoader worker process" in reason:  # PyTorch puts the worker's traceback before what it said
        reason = reason.rsplit("Error: ", 1)[-1]
    reason = " ".join(filter(None, (line.strip(" ") for line in reason.split("\n")))) or "stopped"
    remedy = _remedy(error)
    return f"{reason}; {remedy}" if remedy else reason


def _remedy(error: BaseException) -> str | None:
    """What to do about an error that others raise without saying so."""
    kind, reason = type(error).__name__, str(error)
    if "No space left" in reason:
        return "free some space, or write elsewhere with --out"
    if kind == "DistNetworkError" or "EADDRINUSE" in reason:
        return "the port is in use or out of reach; set MASTER_PORT to a free one"
    if kind == "OutOfMemoryError":
        return "give a smaller --batch-size, or --fit.precision bf16"
    return None
