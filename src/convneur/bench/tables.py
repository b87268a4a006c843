"""What a terminal shows of measurements: tables that fit a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from convneur.bench.latency import Latency
from convneur.bench.parts import Part, Profile
from convneur.printing import Table, box, lines


def latencies(found: Sequence[Latency], exponents: Mapping[str, float], peak_exponents: Mapping[str, float]) -> Table:
    """A line per measurement; with exponents it is of how models scale, and they stand below."""
    scales = bool(exponents)
    columns: dict[str, list[str]] = {
        "model": [row.model for row in found],
        "px": [str(row.size) for row in found],
        "batch": [str(row.batch) for row in found],
        "ms": [_number(1e3 * row.seconds) for row in found],
        "quartiles": [_between(1e3 * row.seconds_low, 1e3 * row.seconds_high) for row in found],
        "/ baseline": [_over(row.over_baseline) for row in found],
        "from-to": [_between(row.over_baseline_low, row.over_baseline_high) for row in found],
        "roofline": ["" if row.roofline is None else _number(1e3 * row.roofline) for row in found],
        "MB": ["" if row.peak_bytes is None else _number(1e-6 * row.peak_bytes) for row in found],
        "MB/baseline": [_over(row.peak_over_baseline) for row in found],
    }
    del columns["from-to" if scales else "MB/baseline"]
    # A column of the same number everywhere is better said once.
    same = {name: set(columns[name]) for name in ("px", "batch")}
    title = ", ".join(f"{name} {columns.pop(name)[0]}" for name, values in same.items() if len(values) == 1)
    notes = [
        "/ baseline: over the same model without a global branch",
        *([] if scales else ["from-to: quartiles of that"]),
        "roofline: ms of its dense operations at the rates this machine showed",
        "MB: peak memory of a step beside weights and images",
    ]
    for name, slope in exponents.items():
        peak = f", memory {peak_exponents[name]:.3f}" if name in peak_exponents else ""
        notes.append(f"{name}: power of the pixels: time {slope:.3f}{peak}")
    return _table(columns, notes, title)


def profiles(found: Sequence[Profile], by_stage: bool) -> Iterable[Table]:
    """A table per profile."""
    for profile in found:
        parts = profile.stages if by_stage else profile.parts
        columns = {
            "part": [part.part for part in parts],
            "stage": ["" if part.stage is None else str(part.stage) for part in parts],
            "ms": [f"{1e3 * part.seconds:.2f}" for part in parts],
            "quartiles": [_between(1e3 * part.seconds_low, 1e3 * part.seconds_high) for part in parts],
            "share": [f"{100 * part.share:.1f} %" for part in parts],
        }
        if not by_stage:
            del columns["stage"]
        title = f"{profile.model}{', fused' if profile.fused else ''}: {profile.size} px, batch {profile.batch}"
        yield _table(columns, _sums(profile, parts), title)


def _sums(profile: Profile, parts: Sequence[Part]) -> list[str]:
    together = 1e3 * sum(part.seconds for part in parts)
    return [
        f"all parts {together:.2f} ms, the whole {1e3 * profile.watched:.2f} ms,",
        f"unwatched {1e3 * profile.seconds:.2f} ms ({100 * profile.overhead:+.1f} %)",
    ]


def _table(columns: Mapping[str, Sequence[str]], notes: Sequence[str], title: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title=title)
    for number, heading in enumerate(columns):
        # Where the terminal is narrow the names give way, not the numbers.
        table.add_column(heading, justify="right" if number else "left", no_wrap=bool(number), overflow="fold")
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    table.caption = lines(notes)
    return table


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _over(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.3f}"


def _between(low: float | None, high: float | None) -> str:
    """Both to three digits or so."""
    if low is None or high is None:
        return ""
    digits = 2 if high < 10 else 1 if high < 100 else 0
    return f"{low:.{digits}f}-{high:.{digits}f}"
