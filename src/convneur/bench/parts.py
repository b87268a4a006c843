"""Where the time of a forward pass goes: each part of a model timed where it runs, between all others.

``forward`` is wrapped on the classes of a model's modules for the time of one run. Hooks, or a forward replaced on a
module, would make layers run one after another that else are one operation (`convneur.layers.guards.untouched`), and a
profiler adds to each operator what the small ones take themselves. So what is run is what runs without watching; the
clock is read at each boundary, and each stretch between two readings belongs to the innermost part, so that the parts
add up to the whole. What is one operation is one part.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NamedTuple

import torch
from timm.models.convnext import ConvNeXt
from torch import nn

from convneur import ops
from convneur.bench.latency import Setting, prepare, reason_of
from convneur.bench.throughput import inference_step, spread, times_in_turn
from convneur.layers import ConvNeurBlock
from convneur.memory import Memory, NeuralMemory
from convneur.memory.fast_weights import FAST_WEIGHTS
from convneur.models import ConvNeur
from convneur.printing import csv_text

STEM, DOWNSAMPLING, DEPTHWISE, MLP = "stem", "downsampling", "depthwise convolution", "norm and MLP"
TOKENS, WRITE, READ, MEMORY, GATE = "tokens", "write", "read", "write and read", "gate"
RESIDUAL, HEAD, OTHER = "residual", "head", "other"
LOCAL, GLOBAL = "local branch", "global branch"  # as one operation
READS: tuple[Any, ...] = (ops.memory, *FAST_WEIGHTS.values())  # a function, and methods: what no module does
ORDER = (STEM, DOWNSAMPLING, DEPTHWISE, MLP, LOCAL, RESIDUAL, GLOBAL, TOKENS, WRITE, READ, MEMORY, GATE, HEAD)


@dataclass(frozen=True)
class Part:
    """What one part of a model took.

    Attributes:
        part: Its name.
        stage: Of the model, from 0; None for what belongs to no stage, and for a sum over all.
        seconds: Median of the rounds.
        seconds_low: First quartile.
        seconds_high: Third quartile.
        share: Of the whole in the same round, median.
    """

    part: str
    stage: int | None
    seconds: float
    seconds_low: float
    seconds_high: float
    share: float


@dataclass(frozen=True)
class Profile:
    """Where the time of one model goes.

    Attributes:
        model: Its name.
        size: Pixels a side.
        batch: Images at a time.
        fused: Whether it was fused.
        seconds: Of the whole, unwatched; median.
        watched: Of the whole, watched, in turn with the other; median. In each round it is the sum of the parts.
        parts: Over all stages, in the order in which they run, ``other`` last: what is in none of them.
        stages: The same parts by stage.
    """

    model: str
    size: int
    batch: int
    fused: bool
    seconds: float
    watched: float
    parts: tuple[Part, ...]
    stages: tuple[Part, ...]

    @property
    def overhead(self) -> float:
        """What watching costs, over the time unwatched; noise, too, so it may be below 0."""
        return self.watched / self.seconds - 1


class _Place(NamedTuple):
    part: str
    stage: int | None


Round = dict[_Place, float]


def measure_parts(names: Sequence[str], setting: Setting, device: torch.device, rounds: int = 15) -> list[Profile]:
    """Run each model watched and unwatched in turn and say where its time goes.

    Parts are those of a ConvNeur or a ConvNeXt: see `ORDER`. What stands in the place of a memory is one part. Of any
    other model they are its direct children, by name.

    Args:
        names: See `convneur.bench.latency.build`.
        setting: How to run them; inference, not compiled.
        device: A CPU or a CUDA device.
        rounds: Turns of each model.

    Raises:
        ValueError: For a name that is not known, a model that does not run, and a setting or device that cannot be
            watched.
    """
    if setting.training or setting.compile:
        raise ValueError("a profile is of inference, not compiled; leave training and compile out")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"a profile on {device} is not possible; take cpu or cuda")
    steps: dict[str, Callable[[], object]] = {}
    watches: dict[str, Watch] = {}
    for name in dict.fromkeys(names):
        model, images = prepare(name, setting, device)
        steps[name] = inference_step(model, images)
        try:
            steps[name]()
        except Exception as error:  # whatever a model raises at a size it was not made for
            what = f"{name} does not run at {setting.size} px, batch {setting.batch}"
            raise ValueError(f"{what}; give other sizes, or leave it out ({reason_of(error)})") from error
        watches[name] = Watch(model, device)
    # First all unwatched, then all watched: both then follow another model, whose weights are in the caches.
    watched = {f"{name}, watched": partial(watches[name].run, step) for name, step in steps.items()}
    times = times_in_turn(steps | watched, device, rounds)
    found = []
    for name, watch in watches.items():
        turns = watch.rounds()[1::2]  # the first run of a turn does not count
        whole = [sum(turn.values()) for turn in turns]
        found.append(
            Profile(
                name,
                setting.size,
                setting.batch,
                setting.fused,
                seconds=spread(times[name])[0],
                watched=spread(whole)[0],
                parts=_parts([_over_stages(turn) for turn in turns], whole),
                stages=_parts(turns, whole),
            )
        )
    return found


class Watch:
    """A clock that is read wherever a model enters or leaves one of its parts.

    Args:
        model: To be watched; it is as it was between runs.
        device: That it runs on. On CUDA events are recorded, so nothing waits.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._model = model  # so that no id goes to another module
        self._places = {id(module): place for module, place in _modules(model)}
        self._classes = {type(module) for module, _ in _modules(model)}
        self._cuda = device.type == "cuda"
        self._within: list[_Place] = []
        self._marks: list[tuple[Any, _Place | None]] = []  # when, and what begins; None for the end of a run

    def run(self, step: Callable[[], object]) -> None:
        """Run a step, watched."""
        with ExitStack() as stack:
            for kind in self._classes:
                stack.enter_context(_replaced(kind, "forward", self._by_module(kind.forward)))
            for owner in READS:
                stack.enter_context(_replaced(owner, "read", self._wrapped(owner.read, _Place(READ, None))))
            self._wrapped(step, _Place(OTHER, None))()

    def rounds(self) -> list[Round]:
        """Seconds of each part, a dictionary per run."""
        if self._cuda:
            torch.cuda.synchronize()
        found: list[Round] = [{}]
        for (start, place), (end, _) in zip(self._marks, self._marks[1:], strict=False):
            if place is None:
                found.append({})
                continue
            passed = start.elapsed_time(end) / 1e3 if self._cuda else end - start
            found[-1][place] = found[-1].get(place, 0.0) + passed
        return [_tokens_apart(turn) for turn in found]

    def _by_module(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = {place: self._wrapped(forward, place) for place in set(self._places.values())}

        def watched(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            place = self._places.get(id(module))
            return (forward if place is None else wrapped[place])(module, *args, **kwargs)

        return watched

    def _wrapped(self, function: Callable[..., Any], place: _Place) -> Callable[..., Any]:
        within, marks, now = self._within, self._marks, self._now

        def watched(*args: Any, **kwargs: Any) -> Any:
            # What does not know its stage is in that of what called it.
            here = place if place.stage is not None or not within else _Place(place.part, within[-1].stage)
            within.append(here)
            marks.append((now(), here))
            try:
                return function(*args, **kwargs)
            finally:
                within.pop()
                marks.append((now(), within[-1] if within else None))

        return watched

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def as_csv(found: Sequence[Profile]) -> str:
    """A line per model, part and stage, so that the lines of a model add up to it."""
    settings, own = ("model", "size", "batch", "fused"), [field.name for field in fields(Part)]
    rows = [
        [*(getattr(profile, name) for name in settings), *(getattr(part, name) for name in own)]
        for profile in found
        for part in profile.stages
    ]
    return csv_text([[*settings, *own], *rows])


def _modules(model: nn.Module) -> Iterator[tuple[nn.Module, _Place]]:
    """Modules of a model, each with the part that begins with it."""
    if not isinstance(model, (ConvNeur, ConvNeXt)):
        for name, child in model.named_children():
            # A list of modules is not called itself.
            for module in child if isinstance(child, nn.ModuleList) else [child]:
                yield module, _Place(name, None)
        return
    yield model.stem, _Place(STEM, None)
    yield model.head, _Place(HEAD, None)
    stages: Any = model.stages
    for number, stage in enumerate(stages):
        yield stage, _Place(OTHER, number)
        if not isinstance(stage.downsample, nn.Identity):
            yield stage.downsample, _Place(DOWNSAMPLING, None)
        for block in stage.blocks:
            for module, part in _parts_of(block):
                yield module, _Place(part, None)


def _parts_of(block: Any) -> Iterator[tuple[nn.Module, str]]:
    yield from ((block.conv_dw, DEPTHWISE), (block.norm, MLP), (block.mlp, MLP))
    branch = block.global_branch if isinstance(block, ConvNeurBlock) else None
    fused = block.fused if isinstance(block, ConvNeurBlock) else None
    if fused is not None:
        yield fused, LOCAL
    if branch is None:
        yield block, RESIDUAL if fused is None else LOCAL
        return
    yield from ((block, GATE), (branch, GLOBAL))
    memory = branch.memory
    yield memory, WRITE if isinstance(memory, Memory) else MEMORY
    if isinstance(memory, NeuralMemory):  # what is not the reading of it is the writing
        yield from ((memory.retrieve_norm, READ), (memory.to_queries, READ))
    read = READ if isinstance(memory, Memory) else MEMORY
    yield from ((branch.proj, read), (branch.norm, read))
    for module in (branch.carry_norm, branch.up, branch.up_shift):
        if module is not None:
            yield module, GATE


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give a class another method, or a module another function."""
    own = vars(owner).get(name)  # else it is inherited
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name) if own is None else setattr(owner, name, own)


def _summed(turn: Round, place_of: Callable[[_Place], _Place]) -> Round:
    total: Round = {}
    for place, seconds in turn.items():
        total[place_of(place)] = total.get(place_of(place), 0.0) + seconds
    return total


def _over_stages(turn: Round) -> Round:
    return _summed(turn, lambda place: place._replace(stage=None))


def _tokens_apart(turn: Round) -> Round:
    """Where the global branch ran module by module, what is in none of its modules is the making of tokens."""
    apart = {place.stage for place in turn if place.part in (WRITE, MEMORY)}
    return _summed(
        turn, lambda place: place._replace(part=TOKENS) if place.part == GLOBAL and place.stage in apart else place
    )


def _parts(turns: Sequence[Round], whole: Sequence[float]) -> tuple[Part, ...]:
    found = []
    for place in sorted(turns[0], key=lambda place: (rank(place.part), -1 if place.stage is None else place.stage)):
        median, low, high = spread([turn[place] for turn in turns])
        share, _, _ = spread([turn[place] / total for turn, total in zip(turns, whole, strict=True)])
        found.append(Part(place.part, place.stage, median, low, high, share))
    return tuple(found)


def rank(part: str) -> int:
    """For sorting, which is stable: parts of ours as listed in `ORDER`, then others as they come, what is left last."""
    return ORDER.index(part) if part in ORDER else len(ORDER) + (part == OTHER)
