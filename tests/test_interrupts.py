"""Ctrl-C and SIGTERM end what is going on, wherever it is, and nothing stays installed."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from convneur.embedding import EmbedConfig, embed
from convneur.interrupts import AGAIN, Interrupts, Terminated, exit_code
from convneur.printing import Console
from convneur.streaming import stream
from convneur.tasks.classification.spec import ClassificationSpec
from convneur.training.callbacks import Interrupted
from convneur.training.run import train
from convneur_options.backbone import BackboneConfig
from convneur_options.classification import RECIPES, ClassificationConfig
from convneur_options.fit import FitConfig
from tests.embedding.builders import photo_folder
from tests.export.builders import saved
from tests.export.builders import small as exportable
from tests.training import small

KINDS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}
BOTH = pytest.mark.parametrize("number", list(KINDS), ids=lambda number: number.name)


def theirs(*_) -> None:
    """Handler of somebody who calls us."""


@pytest.fixture(autouse=True, params=["default", "theirs"])
def _what_was_there_before_is_there_afterwards(request):
    """With the handlers of a fresh interpreter, and with others."""
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    handlers = defaults if request.param == "default" else dict.fromkeys(defaults, theirs)
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    hook = sys.unraisablehook
    try:
        yield
        assert {number: signal.getsignal(number) for number in handlers} == handlers
        assert sys.unraisablehook is hook
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@BOTH
def test_a_signal_raises_and_a_second_one_at_once_does_not(number):
    """`timeout` sends each twice: what tidies up is not to be left in the middle."""
    with Interrupts() as interrupts:
        with pytest.raises(KINDS[number]) as stop:
            signal.raise_signal(number)
        signal.raise_signal(number)
        interrupts.since -= 2 * AGAIN
        with pytest.raises(KINDS[number], match="stopped at once"):
            signal.raise_signal(number)
    assert exit_code(stop.value) == 128 + number
    assert type(stop.value) is KINDS[number]


@BOTH
def test_a_signal_waits_where_it_is_asked_to(number):
    with Interrupts(wait=True) as interrupts:
        interrupts.check()
        signal.raise_signal(number)
        signal.raise_signal(number)
        with pytest.raises(KINDS[number]):
            interrupts.check()
        interrupts.since -= 2 * AGAIN
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt, match="stopped at once"):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
@BOTH
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_in_a_finalizer_is_not_lost(number):
    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(number)

    def wait() -> None:
        Finalized()
        time.sleep(5)

    with Interrupts(), pytest.raises(KINDS[number]):
        wait()


def test_other_threads_change_nothing():
    found = []

    def within() -> None:
        with Interrupts(wait=True) as interrupts:
            interrupts.check()
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=within)
    thread.start()
    thread.join()
    assert found == [before]


class At(small.pl.Callback):
    """Sends a signal in one hook of a training."""

    def __init__(self, hook: str, number: int) -> None:
        setattr(self, hook, lambda *_, **__: signal.raise_signal(number))


HOOKS = (
    "setup",
    "on_fit_start",
    "on_train_start",
    "on_train_batch_start",
    "on_validation_batch_end",
    "on_train_epoch_end",
    "on_save_checkpoint",
    "on_train_end",
    "on_fit_end",
    "teardown",
)


@BOTH
@pytest.mark.parametrize("hook", HOOKS)
def test_training_is_stopped_wherever_it_is(hook, number, tmp_path):
    with pytest.raises((Interrupted, KINDS[number])) as stop:
        small.run(tmp_path, callbacks=[At(hook, number)])
    assert getattr(stop.value, "number", number) == number
    assert isinstance(stop.value, Interrupted) == (hook not in ("setup", "on_fit_start", "on_train_start"))
    if hook == "on_train_end":
        assert len(stop.value.curve) == 2, "all was done"


def test_training_that_ends_or_fails_leaves_no_handler(tmp_path):
    small.run(tmp_path)
    with pytest.raises(ZeroDivisionError):
        small.run(None, callbacks=[Failing()])


@pytest.mark.parametrize("fails", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("what", ["train", "embed", "stream"])
def test_calls_from_python_leave_no_handler(what, fails, tmp_path, monkeypatch):
    """The fixture looks at them afterwards."""
    calls = {"train": _train, "embed": _embed, "stream": _stream}
    if fails:
        within = {"train": "training.callbacks.save_checkpoint", "embed": "embedding.shard_writer.ShardWriter.write"}
        monkeypatch.setattr(f"convneur.{within.get(what, 'streaming.scratch.Scratch.finish')}", _fail)
    with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext():
        calls[what](tmp_path)


def _fail(*_) -> None:
    raise ZeroDivisionError


def _train(folder) -> None:
    backbone = BackboneConfig(dims=(8, 16), depths=(1, 1))
    recipe = replace(RECIPES["quick"], epochs=1, image_size=32, backbone=backbone, fit=FitConfig(accelerator="cpu"))
    config = ClassificationConfig(data="digits", workers=0, train_images=128)
    assert train(ClassificationSpec(), config, recipe, folder / "run", console=Console(file=io.StringIO())) is not None


def _embed(folder) -> None:
    model = saved(folder / "model", list("abcde"))
    embed(str(photo_folder(folder / "photos", 4)), str(model), folder / "out", EmbedConfig(workers=0, device="cpu"))


def _stream(folder) -> None:
    stream(exportable(), np.zeros((64, 64, 3), np.uint8), folder / "out", progress=False)


class Failing(small.pl.Callback):
    def on_train_batch_end(self, *_) -> None:
        raise ZeroDivisionError


@BOTH
def test_the_command_is_stopped_while_it_is_imported(number, tmp_path):
    """Where what an exception would end is up to what is imported: this one goes on without."""
    (tmp_path / "torch.py").write_text(
        "import os\n"
        "try:\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    [None for _ in range(10)]\n"
        "except BaseException:\n"
        "    pass\n"
    )
    code = "import sys; from convneur_command import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "info"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", "convneur: stopped\n")
