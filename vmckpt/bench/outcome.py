"""What an experiment came to: tables for people, values for scripts, and whether what was asked for holds. Pure.

Runs go in as lists of numbers; `Spread` is what is told of them. Used by the experiments; `cli.bench` prints it.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

from vmckpt.units import format_duration

__all__ = [
    "Grid",
    "Outcome",
    "Spread",
    "Target",
    "cut",
    "percent",
    "signed_duration",
    "signed_percent",
    "spread_of",
]


class Spread(NamedTuple):
    """A number that was measured several times."""

    median: float
    low: float
    high: float


class Target(NamedTuple):
    """Something that was asked for, and what was found."""

    what: str
    asked: str
    found: str
    holds: bool


class Grid(NamedTuple):
    """A table."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    """As long as `header` each; the first cell is the row's name."""


class Outcome(NamedTuple):
    """All of it."""

    values: Mapping[str, object]
    """For JSON; keys carry their units."""
    grids: Sequence[Grid]
    targets: Sequence[Target]


def spread_of(numbers: Sequence[float]) -> Spread:
    """Median, least and greatest of at least one number."""
    return Spread(median(numbers), min(numbers), max(numbers))


def cut(ours: float, theirs: float) -> float:
    """The part of `theirs` that `ours` does without; 0 where there was nothing to be saved."""
    return 1 - ours / theirs if theirs > 0 else 0.0


def percent(part: float | None) -> str:
    """`98.6 %`; a dash for None."""
    return "-" if part is None else f"{part * 100:.1f} %"


def signed_duration(duration_s: float) -> str:
    """A duration that may, by noise, be less than nothing."""
    return f"-{format_duration(-duration_s)}" if duration_s < 0 else format_duration(duration_s)


def signed_percent(part: float) -> str:
    """`+3.1 %`, `-12.0 %`."""
    return f"{part * 100:+.1f} %"
