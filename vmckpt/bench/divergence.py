"""`bench divergence`: what it costs to have prefetched for a machine that then does something else.

    live save of A ─▶ checkpoint, with A's active pages ─▶ B runs in its memory: with them prefetched, and with nothing
                                                         ─▶ time to the last operation, the prefetch counted in

A is `working-set`. B is A itself, for comparison, and machines that know nothing of A's set: the same workload with
another seed, hence another set, and `zipf`, which takes pages all over memory. B boots, so its operations count from 0. The rest of memory comes
in the background, as it does in every restore. `outcome_of` is pure; `run` acts.
"""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vmckpt.bench.disk import Disk
from vmckpt.bench.guest import Guest, Request, Setting, create, saved, set_pages
from vmckpt.bench.outcome import Grid, Outcome, Spread, Target, signed_percent, spread_of
from vmckpt.bench.restored import Goal, Restored, lazy, never_saved
from vmckpt.machine.state import MachineState
from vmckpt.machine.workload import parse_workload
from vmckpt.restoring.handler import Wanted
from vmckpt.units import format_count, format_duration

__all__ = ["SIZE_BYTES", "Results", "outcome_of", "run"]

SIZE_BYTES = 1 << 30
_SET_PER_CENT = 10
_WORKLOAD = "working-set:phase=0"
_TOUCHES = 25  # of each page of a set, on average, as in the other experiments
_MOST_LOSS = 0.10

PREFETCHED, NOTHING = "prefetched", "nothing"
MODES = (PREFETCHED, NOTHING)


class Other(NamedTuple):
    """A machine that runs in the memory of the one that was saved."""

    name: str
    workload: str
    """Empty: the one that was saved."""
    touches: float
    """Operations, for each page of the saved machine's set."""


OTHERS = (
    Other("the same machine", "", _TOUCHES),
    Other("another set", _WORKLOAD, _TOUCHES),
    Other("zipf", "zipf", 0.5),  # every other operation a new page: few of them take as long
)


class Results(NamedTuple):
    """All runs."""

    runs: Mapping[tuple[str, str, str], Sequence[Restored]]
    """By disk, machine and mode, in order: the n-th of both modes ran side by side."""


def _state(other: Other, seed: int, page_count: int) -> MachineState | None:
    if not other.workload:
        return None
    return MachineState.boot(parse_workload(other.workload), vcpus=1, seed=seed + 1, page_count=page_count)


def run(request: Request, disks: Sequence[Disk]) -> Outcome:
    """Do the experiment; both ways to restore take turns.

    Raises:
        VmckptError: something failed, or a digest was wrong.
    """
    image = create(request)
    request.tell("saving it")
    pages = set_pages(request.size_bytes, _SET_PER_CENT)
    path = os.path.join(request.work_dir, "guest.vmckpt")
    guest = saved(image, path, Setting(_WORKLOAD, pages), request.seed)
    os.unlink(image)
    found: dict[tuple[str, str, str], list[Restored]] = {}
    for other in OTHERS:
        state = _state(other, request.seed, guest.page_count)
        until_ops = guest.until_ops if state is None else max(round(pages * other.touches), 1)
        goal = never_saved(guest.path, until_ops, state)
        for number in range(request.runs):
            for disk in disks:
                for mode in MODES[:: 1 if number % 2 else -1]:
                    request.tell(f"run {number + 1} of {request.runs}: {disk.name}, {other.name}, {mode}")
                    measured = _measure(request, guest, mode, disk, goal, state)
                    found.setdefault((disk.name, other.name, mode), []).append(measured)
    return outcome_of(Results(found), disks)


def _measure(
    request: Request, guest: Guest, mode: str, disk: Disk, goal: Goal, state: MachineState | None
) -> Restored:
    wanted = Wanted(active=None if mode == PREFETCHED else ())
    return lazy(guest.path, disk, request.work_dir, goal, wanted, state=state)


def outcome_of(results: Results, disks: Sequence[Disk]) -> Outcome:
    """Medians, tables and targets."""
    return Outcome(
        {
            "restores": [
                _values(results, disk.name, other.name, mode)
                for disk in disks
                for other in OTHERS
                for mode in MODES
            ],
            "lost": [
                {"disk": disk.name, "machine": other.name, **_lost(results, disk.name, other.name)._asdict()}
                for disk in disks
                for other in OTHERS
            ],
        },
        [_grid(results, disk) for disk in disks],
        [_target(results, disk, other) for disk in disks for other in OTHERS if other.workload],
    )


def _spread(results: Results, disk: str, other: str, mode: str, name: str) -> Spread:
    return spread_of([float(getattr(each, name)) for each in results.runs[disk, other, mode]])


def _lost(results: Results, disk: str, other: str) -> Spread:
    """The part of the time with nothing prefetched that prefetching costs; of each pair of runs."""
    pairs = zip(*(results.runs[disk, other, mode] for mode in MODES), strict=True)
    return spread_of([with_it.elapsed_s / without.elapsed_s - 1 for with_it, without in pairs])


def _values(results: Results, disk: str, other: str, mode: str) -> dict[str, object]:
    names = ("elapsed_s", "running_s", "stall_s", "storage_reads", "read_bytes", "faults", "avoided")
    spreads = {name: _spread(results, disk, other, mode, name)._asdict() for name in names}
    return {"disk": disk, "machine": other, "mode": mode, **spreads}


def _grid(results: Results, disk: Disk) -> Grid:
    header = ("machine", "prefetched", "used", "runs after", "time", "min .. max", "lost", "faults")
    rows = []
    for other in OTHERS:
        for mode in MODES:
            key = (results, disk.name, other.name, mode)
            time_s = _spread(*key, "elapsed_s")
            counts = [round(_spread(*key, name).median) for name in ("prefetched", "avoided", "faults")]
            lost = signed_percent(_lost(results, disk.name, other.name).median)
            rows.append(
                (
                    other.name,
                    *(format_count(count) for count in counts[:2]),
                    format_duration(_spread(*key, "running_s").median),
                    format_duration(time_s.median),
                    f"{format_duration(time_s.low)} .. {format_duration(time_s.high)}",
                    lost if mode == PREFETCHED else "",
                    format_count(counts[2]),
                )
            )
    return Grid(disk.name, header, rows)


def _target(results: Results, disk: Disk, other: Other) -> Target:
    lost = _lost(results, disk.name, other.name).median
    what = f"{disk.name}: {other.name}, lost to a prefetch for nothing"
    return Target(what, f"<= {signed_percent(_MOST_LOSS)}", signed_percent(lost), lost <= _MOST_LOSS)
