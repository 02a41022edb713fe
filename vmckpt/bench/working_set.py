"""`bench working-set`: when a restored machine works again, and how good the guess at its working set was (VEE'11).

    live saves ─▶ checkpoints, with active pages by tracing or scanning, page by page or by block
    traced one ─▶ on each disk: lazy (nothing beforehand), working set (active pages beforehand), eager (all of memory)
               ─▶ TTR(1 s, u)
    each       ─▶ once, by faults alone: pages prefetched, avoided, on demand ─▶ coverage, precision

In the first part the rest of memory comes in the background, as it does in every restore; in the second it does not, so
that what is counted does not depend on who was quicker. Eager is whichever of our two ways is faster: one sequential
pass of the fault engine on a simulated disk, the loader of `vmckpt run`, with a process for each core, on the real one.
`outcome_of` is pure; `run` acts.
"""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vmckpt.bench.disk import REAL, Disk
from vmckpt.bench.guest import Guest, Request, Setting, create, saved, set_pages
from vmckpt.bench.outcome import Grid, Outcome, Spread, Target, cut, percent, signed_duration, spread_of
from vmckpt.bench.restored import UTILISATIONS, Goal, Restored, eager, lazy, never_saved
from vmckpt.restoring.handler import Wanted
from vmckpt.units import format_count, format_duration

__all__ = ["SIZE_BYTES", "Estimate", "Results", "outcome_of", "run"]

SIZE_BYTES = 2 << 30
_SET_PER_CENT = 4  # MPlayer's 41 MB of 1 GB; SPECjbb's was 19
_WORKLOAD = f"working-set:set={_SET_PER_CENT},phase=0"
_TTR_CUT, _COVERAGE = 0.89, 0.99

LAZY, WORKING_SET, EAGER = "lazy", "working set", "eager"
MODES = (LAZY, WORKING_SET, EAGER)
_TRANSFER = "(the file's transfer alone)"


class Estimate(NamedTuple):
    """A way to tell which pages are in use."""

    estimator: str
    trace: str
    """`working-set`: page by page; `access`: by memory block."""


TRACED = Estimate("tracing", "working-set")
ESTIMATES = (
    Estimate("scanning", "working-set"),
    Estimate("scanning", "access"),
    TRACED,
    Estimate("tracing", "access"),
)


class Results(NamedTuple):
    """All runs."""

    set_pages: int
    """Pages that the workload uses."""
    file_bytes: int
    """What an eager restore has to read."""
    never_saved_s: Sequence[float]
    runs: Mapping[tuple[str, str], Sequence[Restored]]
    """By disk and mode."""
    estimates: Mapping[Estimate | None, Restored]
    """One for each way; None: nothing beforehand."""


class _Bench:
    """The guest, and what is run on its checkpoints."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.set_pages = set_pages(request.size_bytes, _SET_PER_CENT)
        self._image = create(request)

    def saved(self, estimate: Estimate) -> Guest:
        self._request.tell(f"saving it: {estimate.estimator}, --trace {estimate.trace}")
        path = os.path.join(self._request.work_dir, f"{estimate.estimator}-{estimate.trace}.vmckpt")
        setting = Setting(_WORKLOAD, self.set_pages, estimate.trace, estimate.estimator)
        return saved(self._image, path, setting, self._request.seed)

    def measure(self, guest: Guest, mode: str, disk: Disk, goal: Goal) -> Restored:
        if mode == EAGER and disk.is_real:
            return eager(guest.path, goal)
        wanted = {
            LAZY: Wanted(active=()),
            WORKING_SET: Wanted(),
            EAGER: Wanted(active=range(guest.page_count)),
        }[mode]
        return lazy(guest.path, disk, self._request.work_dir, goal, wanted)

    def estimate(self, guest: Guest, goal: Goal, *, prefetch: bool) -> Restored:
        wanted = Wanted(active=None if prefetch else (), background=False)
        return lazy(guest.path, REAL, self._request.work_dir, goal, wanted)


def run(request: Request, disks: Sequence[Disk]) -> Outcome:
    """Do the experiment; ways to restore take turns.

    Raises:
        VmckptError: something failed, or a digest was wrong.
    """
    bench = _Bench(request)
    estimates: dict[Estimate | None, Restored] = {}
    traced: Guest | None = None
    for estimate in ESTIMATES:
        guest = bench.saved(estimate)
        goal = never_saved(guest.path, guest.until_ops)
        estimates[estimate] = bench.estimate(guest, goal, prefetch=True)
        if estimate == TRACED:
            traced = guest
            estimates[None] = bench.estimate(guest, goal, prefetch=False)
        else:
            os.unlink(guest.path)
    assert traced is not None
    never_s: list[float] = []
    found: dict[tuple[str, str], list[Restored]] = {}
    for number in range(request.runs):
        goal = never_saved(traced.path, traced.until_ops)
        never_s.append(goal.elapsed_s)
        for disk in disks:
            for mode in MODES:
                request.tell(f"run {number + 1} of {request.runs}: {disk.name}, {mode}")
                found.setdefault((disk.name, mode), []).append(bench.measure(traced, mode, disk, goal))
    return outcome_of(
        Results(bench.set_pages, os.path.getsize(traced.path), never_s, found, estimates), disks
    )


def outcome_of(results: Results, disks: Sequence[Disk]) -> Outcome:
    """Medians, tables and targets."""
    return Outcome(
        {
            "set_pages": results.set_pages,
            "file_bytes": results.file_bytes,
            "never_saved_s": spread_of(results.never_saved_s)._asdict(),
            "restores": [_values(results, disk.name, mode) for disk in disks for mode in MODES],
            "estimates": [_estimate_values(estimate, found) for estimate, found in results.estimates.items()],
        },
        [*(_ttr_grid(results, disk) for disk in disks), _estimate_grid(results)],
        [*(_ttr_target(results, disk) for disk in disks), *_coverage_targets(results)],
    )


def _ttr(results: Results, disk: str, mode: str, at: int) -> Spread:
    return spread_of([each.ttr_s[at] for each in results.runs[disk, mode]])


def _overhead(results: Results, disk: str, mode: str) -> Spread:
    never_s = spread_of(results.never_saved_s).median
    return spread_of([each.elapsed_s - never_s for each in results.runs[disk, mode]])


def _values(results: Results, disk: str, mode: str) -> dict[str, object]:
    runs = results.runs[disk, mode]
    names = ("running_s", "stall_s", "storage_reads", "read_bytes", "faults")
    return {
        "disk": disk,
        "mode": mode,
        "ttr_s": {str(u): _ttr(results, disk, mode, at)._asdict() for at, u in enumerate(UTILISATIONS)},
        "overhead_s": _overhead(results, disk, mode)._asdict(),
        **{name: spread_of([float(getattr(each, name)) for each in runs])._asdict() for name in names},
    }


def _estimate_values(estimate: Estimate | None, found: Restored) -> dict[str, object]:
    return {
        "estimator": None if estimate is None else estimate.estimator,
        "trace": None if estimate is None else estimate.trace,
        "prefetched_pages": found.prefetched,
        "avoided_pages": found.avoided,
        "on_demand_pages": found.on_demand,
        "coverage": found.coverage,
        "precision": found.precision,
    }


def _ttr_grid(results: Results, disk: Disk) -> Grid:
    rows = []
    for mode in MODES:
        runs = results.runs[disk.name, mode]
        ttr_s = [_ttr(results, disk.name, mode, at) for at in range(len(UTILISATIONS))]
        rows.append(
            (
                mode,
                format_duration(spread_of([each.running_s for each in runs]).median),
                *(format_duration(each.median) for each in ttr_s),
                f"{format_duration(ttr_s[-1].low)} .. {format_duration(ttr_s[-1].high)}",
                signed_duration(_overhead(results, disk.name, mode).median),
                format_count(round(spread_of([each.faults for each in runs]).median)),
            )
        )
    if not disk.is_real:
        transfer = format_duration(_transfer_s(results, disk))
        rows.append((_TRANSFER, *[transfer] * 4, "", "", ""))
    least = [f"TTR(1 s, {round(u * 100)} %)" for u in UTILISATIONS]
    return Grid(disk.name, ("restore", "runs after", *least, "min .. max", "overhead", "faults"), rows)


def _estimate_grid(results: Results) -> Grid:
    rows = []
    for estimate in (None, *ESTIMATES):
        found = results.estimates[estimate]
        name = LAZY if estimate is None else f"{estimate.estimator}, --trace {estimate.trace}"
        counts = (found.prefetched, found.avoided, found.on_demand)
        covered = None if estimate is None else found.coverage
        rows.append((name, *map(format_count, counts), percent(covered), percent(found.precision)))
    header = ("estimator", "prefetched", "avoided", "on demand", "coverage", "precision")
    return Grid(f"estimators, a set of {format_count(results.set_pages)} pages", header, rows)


def _ttr_target(results: Results, disk: Disk) -> Target:
    last = len(UTILISATIONS) - 1
    ours, theirs = (_ttr(results, disk.name, mode, last).median for mode in (WORKING_SET, EAGER))
    less = cut(ours, theirs)
    found = percent(less)
    if not disk.is_real:
        found += f", {percent(cut(ours, _transfer_s(results, disk)))} less than the transfer alone"
    what = f"{disk.name}: TTR(1 s, 90 %) less than eager"
    return Target(what, f">= {percent(_TTR_CUT)}", found, less >= _TTR_CUT)


def _transfer_s(results: Results, disk: Disk) -> float:
    """What no eager restore can be below: the file at the disk's full speed, with nothing to decompress."""
    return disk.cost_s(None, 0, results.file_bytes)


def _coverage_targets(results: Results) -> list[Target]:
    return [
        Target(
            f"coverage, tracing, --trace {estimate.trace}",
            f">= {percent(_COVERAGE)}",
            percent(results.estimates[estimate].coverage),
            results.estimates[estimate].coverage >= _COVERAGE,
        )
        for estimate in ESTIMATES
        if estimate.estimator == "tracing"
    ]
