"""The figures that the checkpoint file is held to, and whether an outcome meets them: pure, no I/O.

They are judged and printed after a run, not asserted: what a figure is bounded by belongs in docs/performance.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tests.benchmarks.bounds import Bound, ReadingTarget, Target
from tests.benchmarks.cases import (
    AT_REST,
    FORECAST,
    HELD,
    KSM_CASES,
    MINIMAL,
    OF_SPLIT,
    OFF,
    OFF_BY,
    PEAK,
    PLAN,
    QUANTITIES,
    RUNNING,
    TRACER,
    machine_name,
)
from tests.benchmarks.images import Image
from tests.benchmarks.lazy_cases import LAZY_QUANTITIES
from tests.benchmarks.lazy_targets import LAZY_TARGETS
from tests.benchmarks.report import Table, measure_text
from tests.benchmarks.results import Outcome, Reading, ratio

__all__ = [
    "READING_TARGETS",
    "TARGETS",
    "Verdict",
    "judge",
    "verdict_table",
]

_MIB = 1 << 20
_GIB = 1 << 30


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
    Target(
        "estimate", "vmckpt estimate-sharing", "time", Bound.AT_MOST, 0.5, "", (2 * _GIB,), real_only=False
    ),
    Target(
        *("estimate", "vmckpt estimate-sharing", "speed", Bound.AT_LEAST, 1 / 1.5, "xxhsum -H3", (8 * _GIB,)),
        real_only=False,
    ),
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
    *(ReadingTarget("sharing-ksm", case.of(FORECAST), OFF_BY, Bound.AT_MOST, 0.005) for case in KSM_CASES),
    ReadingTarget("sharing-ksm", PLAN, OF_SPLIT, Bound.AT_MOST, 0.6),
    *(
        ReadingTarget("sharing-sample", method, HELD, bound, limit)
        for method in ("difference", "horvitz-thompson")
        for bound, limit in ((Bound.AT_LEAST, 0.93), (Bound.AT_MOST, 0.97))
    ),
    *(
        ReadingTarget("sharing-sample", method, OFF, Bound.LESS_THAN, 0.01, image=image)
        for image, method in (
            ("heavy-tailed-64", "difference"),
            ("flat-64-heavy-ones-counted", "horvitz-thompson"),
        )
    ),
    ReadingTarget("sharing-memory", "--sample 1/64", PEAK, Bound.LESS_THAN, 300.0 * _MIB),
)
"""Of a machine with the workload working-set, and of what Linux KSM does with each image."""


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
