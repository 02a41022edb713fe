"""What was measured, as frozen values, and the statistics over it: pure, no I/O.

`measure` and `qemu` make samples, `trial` collects them into results, `report` and `targets` read them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Literal

__all__ = ["Footprint", "Outcome", "Reading", "Result", "Sample", "Spread", "Unit", "ratio", "spread_of"]

Unit = Literal["s", "x", "part", "per s", "pages", "count", "GB/s", "bytes"]
"""Of a reading; `x` is a ratio, `part` one that is shown in per cent."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One timed run of a whole command."""

    wall_s: float
    """From just before the process is started to its end."""
    cpu_s: float
    """User and system time of the process and of the descendants it waited for."""
    rss_bytes: int | None
    """Peak resident memory of the largest process among them; None where that says nothing."""
    foreign_s: float = 0.0
    """Processor time that others took meanwhile, on all cores: what else the machine was busy with."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with the extremes around it."""

    median: float
    """The middle value, or the mean of the middle two."""
    low: float
    """The smallest value."""
    high: float
    """The largest value."""


@dataclass(frozen=True, slots=True)
class Result:
    """All runs of one contender in one experiment on one image."""

    experiment: str
    """Id of the experiment."""
    image: str
    """Name of the image."""
    contender: str
    """Id of the contender: what its row is called."""
    ours: bool
    """True for vmckpt, False for a peer."""
    samples: tuple[Sample, ...] = ()
    """The timed runs, the warm-up left out; empty when `note` says why."""
    file_bytes: int | None = None
    """Length of the compressed file: the output of a save, the input of a restore."""
    disk_bytes: int | None = None
    """What that file occupies on disk: less than its length when it has holes."""
    note: str = ""
    """Why there is nothing to show."""

    @property
    def wall_s(self) -> Spread | None:
        """Median and extremes of the elapsed seconds."""
        return spread_of([sample.wall_s for sample in self.samples])

    @property
    def cpu_s(self) -> Spread | None:
        """Median and extremes of the processor seconds."""
        return spread_of([sample.cpu_s for sample in self.samples])

    @property
    def rss_bytes(self) -> int | None:
        """The largest peak of any run."""
        return max(
            (sample.rss_bytes for sample in self.samples if sample.rss_bytes is not None), default=None
        )


@dataclass(frozen=True, slots=True)
class Footprint:
    """Peak memory of one untimed run, sampled over all its processes."""

    experiment: str
    """Id of the experiment."""
    image: str
    """Name of the image."""
    contender: str
    """Id of the contender."""
    ours: bool
    """True for vmckpt, False for a peer."""
    pss_bytes: int
    """Peak of the sum of proportional set sizes: a page shared by two processes counts once."""
    rss_bytes: int
    """Peak of the sum of resident set sizes: such a page counts twice."""
    largest_bytes: int
    """Peak resident memory of the largest single process."""
    processes: int
    """The most processes seen at one time."""
    samples: int
    """How often the processes were looked at."""


@dataclass(frozen=True, slots=True)
class Reading:
    """All values of one quantity that was read off, rather than timed from outside."""

    experiment: str
    """Id of the experiment."""
    image: str
    """What it was read on: a size of memory, say."""
    contender: str
    """What its row is called."""
    quantity: str
    """What the values are."""
    unit: Unit
    """Their unit."""
    values: tuple[float, ...] = ()
    """One for each run, in order; empty when `note` says why."""
    ours: bool = True
    """True for vmckpt, False for a peer."""
    note: str = ""
    """Why there is nothing to show."""
    runs: int = 0
    """Of so many runs `values` are least, median and greatest; 0: they are all values."""

    @property
    def spread(self) -> Spread | None:
        """Median and extremes."""
        return spread_of(self.values)


@dataclass(slots=True)
class Outcome:
    """Everything one run of the benchmarks brought: grows while it runs."""

    machine: dict[str, object] = field(default_factory=dict)
    """What it ran on and with: `machine.describe`."""
    images: dict[str, dict[str, object]] = field(default_factory=dict)
    """Name -> kind, origin and sizes of each image, in the order measured."""
    results: list[Result] = field(default_factory=list)
    """In the order measured."""
    footprints: list[Footprint] = field(default_factory=list)
    """In the order measured."""
    readings: list[Reading] = field(default_factory=list)
    """In the order measured."""
    notes: list[str] = field(default_factory=list)
    """What was left out, and why."""
    complete: bool = False
    """False after an interruption: the results so far are kept."""

    def result(self, experiment: str, image: str, contender: str) -> Result | None:
        """The result of these ids that has samples, or None."""
        for result in self.results:
            if (result.experiment, result.image, result.contender) == (experiment, image, contender):
                return result if result.samples else None
        return None

    def reading(self, experiment: str, image: str, contender: str, quantity: str) -> Reading | None:
        """The reading of these ids that has values, or None."""
        wanted = (experiment, image, contender, quantity)
        for reading in self.readings:
            if (reading.experiment, reading.image, reading.contender, reading.quantity) == wanted:
                return reading if reading.values else None
        return None

    def as_json(self) -> dict[str, object]:
        """The same as plain values, with the medians spelled out."""
        return {
            "machine": self.machine,
            "images": self.images,
            "results": [asdict(result) | _medians(result) for result in self.results],
            "footprints": [asdict(footprint) for footprint in self.footprints],
            "readings": [asdict(reading) | {"spread": _plain(reading.spread)} for reading in self.readings],
            "notes": self.notes,
            "complete": self.complete,
        }


def spread_of(values: Sequence[float]) -> Spread | None:
    """Median and extremes of `values`, or None when there are none."""
    if not values:
        return None
    return Spread(median(values), min(values), max(values))


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """The quotient, or None where a part is missing or the denominator is zero."""
    if numerator is None or not denominator:
        return None
    return numerator / denominator


def _medians(result: Result) -> dict[str, object]:
    pairs: Iterable[tuple[str, Spread | None]] = (("wall_s", result.wall_s), ("cpu_s", result.cpu_s))
    return {name: _plain(spread) for name, spread in pairs}


def _plain(spread: Spread | None) -> dict[str, float] | None:
    return None if spread is None else asdict(spread)
