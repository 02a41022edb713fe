"""The figures that the checkpoint file is held to, and whether an outcome meets them: pure, no I/O.

They are judged and printed after a run, not asserted: what a figure is bounded by belongs in docs/performance.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from tests.benchmarks.cases import AT_REST, MINIMAL, QUANTITIES, RUNNING, TRACER, machine_name
from tests.benchmarks.images import Image
from tests.benchmarks.lazy_cases import (
    DISKS,
    FAULT_SUBJECTS,
    LAZY_QUANTITIES,
    PAGE_BY_PAGE,
    START,
    START_SIZES_BYTES,
    place,
    start_name,
)
from tests.benchmarks.report import Table, measure_text
from tests.benchmarks.results import Outcome, Reading, ratio

__all__ = [
    "LAZY_TARGETS",
    "READING_TARGETS",
    "TARGETS",
    "ReadingTarget",
    "Target",
    "Verdict",
    "judge",
    "verdict_table",
]

_MIB = 1 << 20
_GIB = 1 << 30


class Bound(Enum):
    """On which side of its bound a value has to lie."""

    AT_LEAST = "≥"
    MORE_THAN = ">"
    AT_MOST = "≤"
    LESS_THAN = "<"

    def holds(self, value: float, bound: float) -> bool:
        """Whether `value` keeps `bound`."""
        if self is Bound.AT_LEAST:
            return value >= bound
        if self is Bound.MORE_THAN:
            return value > bound
        return value <= bound if self is Bound.AT_MOST else value < bound


Quantity = Literal["speed", "size", "time", "memory"]


@dataclass(frozen=True, slots=True)
class Target:
    """One figure: a quantity of one contender, alone or against a peer, on some images."""

    experiment: str
    """Id of the experiment."""
    subject: str
    """Id of the contender that is judged."""
    quantity: Quantity
    """`speed`: the peer's median time over the subject's; `size`: the subject's file over the peer's;
    `time`: seconds; `memory`: bytes of peak proportional set size."""
    bound: Bound
    """On which side of `limit` the value has to lie."""
    limit: float
    """A ratio, seconds or bytes, as the quantity has it."""
    peer: str = ""
    """Id of the contender it is compared with, for the two ratios."""
    sizes_bytes: tuple[int, ...] = ()
    """Sizes of memory it is asked for; empty for all."""
    real_only: bool = True
    """Whether it is asked for real guests only."""

    def applies(self, image: Image) -> bool:
        """Whether it is asked for on `image`."""
        if self.real_only and not image.real:
            return False
        return not self.sizes_bytes or any(image.about(size) for size in self.sizes_bytes)


@dataclass(frozen=True, slots=True)
class ReadingTarget:
    """One figure that was read off: alone, or as so many times a peer's."""

    experiment: str
    """Id of the experiment."""
    subject: str
    """Id of the contender that is judged."""
    quantity: str
    """The reading's; where it ends in `*`, every one that begins so."""
    bound: Bound
    """On which side of `limit` the value has to lie."""
    limit: float
    """In the reading's unit; a ratio where there is a peer."""
    peer: str = ""
    """Id of the contender that it is divided by."""
    image: str = ""
    """Where it is asked for; empty: everywhere."""
    peer_image: str = ""
    """Where the same contender has what it is divided by."""
    every_run: bool = False
    """The worst run is judged, not the median."""

    def applies(self, reading: Reading) -> bool:
        """Whether it is asked of `reading`."""
        stem = self.quantity.removesuffix("*")
        same = reading.quantity.startswith(stem) if stem != self.quantity else reading.quantity == stem
        ids = (reading.experiment, reading.contender)
        return same and ids == (self.experiment, self.subject) and self.image in {"", reading.image}

    def value(self, outcome: Outcome, reading: Reading) -> float | None:
        """What is judged of `reading`; None where there is nothing to divide by."""
        if (spread := reading.spread) is None:
            return None
        if not self.peer and not self.peer_image:
            worst = spread.low if self.bound in {Bound.AT_LEAST, Bound.MORE_THAN} else spread.high
            return worst if self.every_run else spread.median
        peer = outcome.reading(
            self.experiment, self.peer_image or reading.image, self.peer or self.subject, reading.quantity
        )
        return None if peer is None or peer.spread is None else ratio(spread.median, peer.spread.median)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came out for one target on one image."""

    target: Target | ReadingTarget
    """What was asked for."""
    image: str
    """Name of the image; empty when there was none that it applies to."""
    value: float | None
    """What was measured, in the target's unit; None when it was not."""
    reading: Reading | None = None
    """What a `ReadingTarget` was judged by."""

    @property
    def met(self) -> bool | None:
        """Whether the value keeps the bound; None when it was not measured."""
        return None if self.value is None else self.target.bound.holds(self.value, self.target.limit)


_SMALL_AND_LARGE = (512 * _MIB, 2 * _GIB)
_SAVE, _SAVE_ZSTD = ("save", "vmckpt save"), ("save", "vmckpt save --codec zstd")

TARGETS: tuple[Target, ...] = (
    Target(*_SAVE, "speed", Bound.AT_LEAST, 5.0, "lz4 -1", (2 * _GIB,)),
    Target(*_SAVE, "speed", Bound.AT_LEAST, 2.0, "lz4 -1", (512 * _MIB,)),
    Target(*_SAVE, "size", Bound.AT_MOST, 0.6, "lz4 -1", (2 * _GIB,)),
    Target(*_SAVE, "size", Bound.AT_MOST, 1.0, "lz4 -1"),
    Target(*_SAVE, "speed", Bound.MORE_THAN, 1.0, "zstd -1 -T2", _SMALL_AND_LARGE),
    Target(*_SAVE, "speed", Bound.AT_LEAST, 1.0, "QEMU migrate", (2 * _GIB,)),
    Target(*_SAVE_ZSTD, "size", Bound.AT_MOST, 1.0, "zstd -1 --long=27", _SMALL_AND_LARGE),
    Target(*_SAVE_ZSTD, "speed", Bound.AT_LEAST, 1.0, "zstd -1 -T2", _SMALL_AND_LARGE),
    Target("restore", "vmckpt restore", "speed", Bound.AT_LEAST, 3.0, "lz4 -d"),
    Target(*_SAVE, "memory", Bound.LESS_THAN, 256.0 * _MIB, real_only=False),
    Target(*_SAVE_ZSTD, "memory", Bound.LESS_THAN, 256.0 * _MIB, real_only=False),
    Target("restore", "vmckpt restore", "memory", Bound.LESS_THAN, 256.0 * _MIB, real_only=False),
    Target("version", "vmckpt --version", "time", Bound.LESS_THAN, 0.060, real_only=False),
    Target("info", "vmckpt info", "time", Bound.LESS_THAN, 0.200, real_only=False),
    Target("live-time", RUNNING, "speed", Bound.AT_LEAST, 0.5, AT_REST, real_only=False),
)
"""Two cores, page cache warm, ratios of medians from one run."""

_RECALL, _SIZE = "used pages that are recorded", "recorded pages for a used one"
_SMALLEST, _LARGEST = machine_name(256 * _MIB), machine_name(4 * _GIB)

READING_TARGETS: tuple[ReadingTarget, ...] = (
    *(
        ReadingTarget("live-pause", f"--trace {rule}", "pause", Bound.LESS_THAN, 0.005)
        for rule in ("access", "write")
    ),
    *(
        ReadingTarget(
            *("live-pause", f"--trace {rule}", "pause", Bound.AT_MOST, 2.0),
            image=_LARGEST,
            peer_image=_SMALLEST,
        )
        for rule in ("access", "write")
    ),
    *(
        ReadingTarget("live-speed", f"1 vCPU, --trace {rule}", "speed meanwhile", Bound.AT_LEAST, 0.5)
        for rule in ("access", "write")
    ),
    *(
        ReadingTarget("live-active", f"--trace {rule}", quantity, bound, limit, every_run=True)
        for rule in ("access", "working-set")
        for quantity, bound, limit in ((_RECALL, Bound.AT_LEAST, 0.99), (_SIZE, Bound.AT_MOST, 1.2))
    ),
    ReadingTarget("live-traps", TRACER, "a trap*", Bound.LESS_THAN, 2.0, MINIMAL),
)
"""Of a machine with the workload working-set."""

_PREFETCHED = "access, compressed, prefetched"
_FIRST, *_LARGER = START_SIZES_BYTES

LAZY_TARGETS: tuple[ReadingTarget, ...] = (
    ReadingTarget("lazy-start", START, "time to run", Bound.LESS_THAN, 0.200),
    *(
        ReadingTarget(
            *("lazy-start", START, "time to run", Bound.AT_MOST, 1.2),
            image=start_name(size_bytes),
            peer_image=start_name(_FIRST),
        )
        for size_bytes in _LARGER
    ),
    *(
        ReadingTarget(
            *("lazy-layout", _PREFETCHED, "overhead", Bound.AT_MOST, 0.30 if disk == "real" else 0.06),
            peer=PAGE_BY_PAGE,
            image=place(disk, blocks),
        )
        for blocks in ("ours", "paper")
        for disk in DISKS
    ),
    *(
        ReadingTarget(
            *("lazy-layout", fewer, "storage reads", Bound.LESS_THAN, 1.0),
            peer=more,
            image=place(disk, "paper"),
        )
        for disk in DISKS
        for fewer, more in (("access", "physical"), ("physical", "random"))
    ),
    *(
        ReadingTarget(
            *("lazy-layout", "access", "other pages used", Bound.AT_LEAST, 0.8), image=place(disk, "paper")
        )
        for disk in DISKS
    ),
    *(
        ReadingTarget(
            *("lazy-ttr", "working set", "TTR(1 s, 90 %)", Bound.AT_MOST, 0.11), peer="eager", image=disk
        )
        for disk in DISKS
    ),
    *(
        ReadingTarget("lazy-ttr", f"tracing, --trace {rule}", "coverage", Bound.AT_LEAST, 0.99)
        for rule in ("working-set", "access")
    ),
    *(
        ReadingTarget("lazy-divergence", machine, "time lost", Bound.AT_MOST, 0.10)
        for machine in ("another set", "zipf")
    ),
    *(
        ReadingTarget("lazy-background", codec, "memory brought", Bound.AT_LEAST, 1.5)
        for codec in ("default codec", "--codec raw")
    ),
    ReadingTarget("lazy-fault", FAULT_SUBJECTS[0], "a fault", Bound.AT_MOST, 1.7, FAULT_SUBJECTS[1]),
    ReadingTarget("lazy-kills", START, "right digests", Bound.AT_LEAST, 1.0, every_run=True),
)
"""Of lazy restores; overheads and times to responsiveness as parts of the peer's."""


def judge(outcome: Outcome, images: Mapping[str, Image]) -> list[Verdict]:
    """A verdict for each target on each image that it was measured on, and one for a target that nothing measured."""
    verdicts = []
    for target in TARGETS:
        values = [
            Verdict(target, name, value)
            for name, image in images.items()
            if target.applies(image) and (value := _value(outcome, target, name)) is not None
        ]
        verdicts += values or [Verdict(target, "", None)]
    for asked in (*READING_TARGETS, *LAZY_TARGETS):
        found = [
            Verdict(asked, reading.image, value, reading)
            for reading in outcome.readings
            if asked.applies(reading) and (value := asked.value(outcome, reading)) is not None
        ]
        verdicts += found or [Verdict(asked, "", None)]
    return verdicts


def verdict_table(verdicts: list[Verdict]) -> Table:
    """The verdicts for a person."""
    words = {True: "met", False: "MISSED", None: "not measured"}
    rows = []
    for verdict in verdicts:
        target = verdict.target
        value = "" if verdict.value is None else _text(verdict, verdict.value)
        asked = f"{target.bound.value} {_text(verdict, target.limit)}"
        rows.append((_what(verdict), verdict.image, asked, value, words[verdict.met]))
    return Table("Figures to meet", ("figure", "image", "asked", "measured", ""), tuple(rows))


def _value(outcome: Outcome, target: Target, image: str) -> float | None:
    if target.quantity == "memory":
        wanted = (target.experiment, image, target.subject)
        peaks = [f.pss_bytes for f in outcome.footprints if (f.experiment, f.image, f.contender) == wanted]
        return max(peaks, default=None)
    subject = outcome.result(target.experiment, image, target.subject)
    if subject is None or subject.wall_s is None:
        return None
    if target.quantity == "time":
        return subject.wall_s.median
    peer = outcome.result(target.experiment, image, target.peer)
    if peer is None or peer.wall_s is None:
        return None
    if target.quantity == "size":
        return ratio(subject.file_bytes, peer.file_bytes)
    return ratio(peer.wall_s.median, subject.wall_s.median)


def _what(verdict: Verdict) -> str:
    target, reading = verdict.target, verdict.reading
    peer = target.peer or (target.peer_image if isinstance(target, ReadingTarget) else "")
    quantity = target.quantity.removesuffix("*") if reading is None else reading.quantity
    return f"{target.subject}: {quantity}" + (f" against {peer}" if peer else "")


def _text(verdict: Verdict, value: float) -> str:
    target = verdict.target
    if isinstance(target, Target):
        return measure_text(value, {"time": "s", "memory": "bytes"}.get(target.quantity, "x"))
    if target.peer or target.peer_image:
        return measure_text(value, "x")
    return measure_text(value, {**QUANTITIES, **LAZY_QUANTITIES}[target.quantity])
