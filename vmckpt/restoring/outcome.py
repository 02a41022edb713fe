"""What a lazy restore came to, put together from what its processes shared. Called by `lazy`."""

from collections.abc import Sequence
from typing import NamedTuple

from vmckpt.machine.machine import MachineStatus
from vmckpt.pages import PageRange
from vmckpt.restoring import measures
from vmckpt.restoring.log import Counter
from vmckpt.restoring.residency import Origin
from vmckpt.restoring.shared import Shared
from vmckpt.restoring.touched import used_of

__all__ = ["LazyPages", "LazyReport", "Times", "report_of"]

_WINDOW_S = 1.0
_UTILISATIONS = ("0.5", "0.7", "0.9")  # ascending


class Times(NamedTuple):
    """Moments of a restore, on the scale of `time.monotonic`."""

    started_s: float
    """The process."""
    running_s: float
    """The vCPUs."""
    ended_s: float
    """Their last operation."""


class LazyPages(NamedTuple):
    """Pages of memory by why they were brought; zero pages that nobody asked for are in none of these."""

    prefetched: int
    prefetched_used: int
    """Those that a vCPU touched, until memory was all there or, of a run with a last operation, until that."""
    on_demand: int
    """Stored pages that a vCPU waited for."""
    neighbours: int
    """Brought because another page of the same storage block was wanted."""
    neighbours_used: int
    background: int
    background_used: int
    zero: int
    """Zero pages that were asked for."""
    total: int


class LazyReport(NamedTuple):
    """What a lazy restore did. Times count from the start of the process."""

    memory_bytes: int
    time_to_run_s: float
    """When the vCPUs started, after the prefetch."""
    prefetch_s: float
    """How long the prefetch took of that."""
    elapsed_s: float
    """When the vCPUs had done their last operation."""
    ops: int
    """Operations of all vCPUs since boot."""
    ops_per_vcpu: tuple[int, ...]
    digest: str
    """Of memory at the end: 32 hex digits."""
    faults: int
    storage_reads: int
    demand_reads: int
    """Those of them that a vCPU waited for."""
    bytes_read: int
    stall_s: float
    """How long vCPUs waited, all together."""
    pages: LazyPages
    coverage: float
    precision: float | None
    ttr_s: dict[str, float]
    """Time to responsiveness, with windows of a second, by utilisation."""
    resident_s: float
    """When the machine ran, and all memory was there."""
    handlers: int
    """Handler processes that it took: one, and one more for each that was killed."""
    vcpus: int
    workload: str
    seed: int
    ended_by: str
    """`until-ops`, `resident`, `socket`, or `signal`."""
    mechanism: str
    """`userfaultfd` or `software`."""
    prefetch_from: str
    """Who said what to prefetch: `active` (the checkpoint), `recorded` (the order beside it), `order` (another one that
    was given), or `none`: nothing was asked for."""


def report_of(
    shared: Shared,
    times: Times,
    status: MachineStatus,
    digest: str,
    touched: Sequence[PageRange],
    ended_by: str,
    mechanism: str,
    prefetch_from: str,
) -> LazyReport:
    """The report of a restore that has ended, all memory there."""
    counters = shared.log.counters
    census = shared.residency.census()
    used = used_of(shared.residency, touched)
    stalls = measures.stalls_of(shared.log.faults(), round(times.started_s * 1e9))
    running_s = times.running_s - times.started_s
    ttr_s = measures.ttr_curve(
        stalls,
        status.vcpus,
        running_s=running_s,
        window_s=_WINDOW_S,
        leasts=[float(text) for text in _UTILISATIONS],
    )
    return LazyReport(
        memory_bytes=status.memory_bytes,
        time_to_run_s=running_s,
        prefetch_s=counters[Counter.PREFETCH_NS] / 1e9,
        elapsed_s=times.ended_s - times.started_s,
        ops=status.ops,
        ops_per_vcpu=status.ops_per_vcpu,
        digest=digest,
        faults=counters[Counter.FAULTS],
        storage_reads=shared.total(Counter.READS),
        demand_reads=counters[Counter.DEMAND_READS],
        bytes_read=shared.total(Counter.READ_BYTES),
        stall_s=counters[Counter.STALL_NS] / 1e9,
        pages=LazyPages(
            prefetched=census.prefetched,
            prefetched_used=used[Origin.PREFETCH],
            on_demand=census.on_demand,
            neighbours=census.neighbours,
            neighbours_used=used[Origin.NEIGHBOUR],
            background=census.background,
            background_used=used[Origin.BACKGROUND],
            zero=census.zero,
            total=len(shared.residency.cells),
        ),
        coverage=measures.coverage(used[Origin.PREFETCH], census.on_demand),
        precision=measures.precision(used[Origin.PREFETCH], census.prefetched),
        ttr_s=dict(zip(_UTILISATIONS, ttr_s, strict=True)),
        resident_s=max(counters[Counter.RESIDENT_NS] / 1e9 - times.started_s, running_s),
        handlers=counters[Counter.HANDLERS],
        vcpus=status.vcpus,
        workload=status.workload,
        seed=status.seed,
        ended_by=ended_by,
        mechanism=mechanism,
        prefetch_from=prefetch_from,
    )
