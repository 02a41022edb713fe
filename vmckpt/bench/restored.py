"""One run of an experiment: a machine restored from a checkpoint on some disk, run to an operation, and measured.

    begin ─▶ open ─▶ (prefetch, or all of memory) ─▶ vCPUs run ─▶ operation N: end ─▶ digest, no disk in the way any more

Times count from `begin`, inside a process that runs already: Python's own start is in none of them. The run ends with
the last operation; what is still missing of memory then is brought for the digest alone, which must be that of the run
that was never saved. Used by the experiments.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import NamedTuple

from vmckpt.bench.disk import Disk
from vmckpt.bench.fetched import Fetched, fetched_by
from vmckpt.bench.pace import Clock, PacedStore
from vmckpt.bench.peer import PageStore
from vmckpt.checkpoint.format import SectionType
from vmckpt.checkpoint.reader import Checkpoint
from vmckpt.errors import WorkerError
from vmckpt.kernel.clock import process_started_s
from vmckpt.machine.machine import Machine
from vmckpt.machine.ram import Ram
from vmckpt.machine.session import Wishes, state_of
from vmckpt.machine.state import MachineState
from vmckpt.restoring.handler import Wanted
from vmckpt.restoring.lazy import LazyRestore
from vmckpt.restoring.log import Counter, Fault
from vmckpt.restoring.measures import stalls_of, ttr_curve
from vmckpt.restoring.record import unpacked_order
from vmckpt.restoring.store import Store

__all__ = ["UTILISATIONS", "WINDOW_S", "Goal", "Restored", "eager", "lazy", "never_saved", "page_by_page"]

WINDOW_S = 1.0
UTILISATIONS = (0.5, 0.7, 0.9)
_numbers = count()


class Goal(NamedTuple):
    """Where a machine's runs lead to, as the one that was never saved has shown."""

    until_ops: int
    """Operations of each vCPU since boot."""
    digest: str
    """Of memory, then."""
    elapsed_s: float
    """From the start of the vCPUs to their last operation, with all of memory there."""


class Restored(NamedTuple):
    """A restore, and the run that it was for."""

    elapsed_s: float
    """From `begin` to the last operation."""
    running_s: float
    """When the vCPUs started; what was brought beforehand is in it."""
    ttr_s: tuple[float, ...]
    """TTR(1 s, u), for each of `UTILISATIONS`."""
    stall_s: float
    """How long vCPUs waited for pages, all together."""
    faults: int
    storage_reads: int
    """Storage blocks read until the last operation, for whatever reason."""
    read_bytes: int
    prefetched: int
    """Pages brought before the vCPUs ran."""
    avoided: int
    """Those of them that were touched."""
    on_demand: int
    """Pages that a vCPU waited for."""
    coverage: float
    precision: float | None
    fetched: Fetched | None
    """Where it was asked for."""


class _Strange(PacedStore):
    """An open checkpoint whose memory is there for another machine than its own."""

    state: MachineState

    def section(self, section_type: int) -> bytes | None:
        """As in `CheckpointFile`."""
        is_state = section_type == SectionType.VCPU_STATE
        return self.state.to_json() if is_state else super().section(section_type)


def never_saved(path: str, until_ops: int, state: MachineState | None = None) -> Goal:
    """Run the machine of a checkpoint with all of its memory; `state`: another machine in that memory."""
    with Checkpoint.open(path) as source:
        own_state, recording = state_of(source, Wishes())
        if state is None:
            state = own_state
        ram = Ram.load(source)
    with Machine(ram, state, recording=recording) as machine:
        machine.start(until_ops=until_ops, paused=True)
        begin_s = time.monotonic()
        machine.resume()
        machine.wait()
        elapsed_s = time.monotonic() - begin_s
        machine.stop()
        return Goal(until_ops, machine.digest(), elapsed_s)


def eager(path: str, goal: Goal) -> Restored:
    """Bring all of memory from the real file, then run: by the loader of `vmckpt run`, which uses all cores."""
    begin_s = time.monotonic()
    with Checkpoint.open(path) as source:
        state, recording = state_of(source, Wishes())
        ram = Ram.load(source)
        counts, read_bytes = source.counts, source.file_bytes
        storage_reads = source.summary.storage_blocks
    with Machine(ram, state, recording=recording) as machine:
        machine.start(until_ops=goal.until_ops, paused=True)
        running_s = time.monotonic() - begin_s
        machine.resume()
        machine.wait()
        elapsed_s = time.monotonic() - begin_s
        machine.stop()
        _check(machine.digest(), goal, path)
    return Restored(
        elapsed_s=elapsed_s,
        running_s=running_s,
        ttr_s=(running_s,) * len(UTILISATIONS),
        stall_s=0.0,
        faults=0,
        storage_reads=storage_reads,
        read_bytes=read_bytes,
        prefetched=counts.total - counts.zero,
        avoided=0,
        on_demand=0,
        coverage=1.0,
        precision=None,
        fetched=None,
    )


def lazy(
    path: str,
    disk: Disk,
    work_dir: str,
    goal: Goal,
    wanted: Wanted,
    pages: Mapping[int, Sequence[int]] | None = None,
    state: MachineState | None = None,
) -> Restored:
    """Restore lazily.

    Args:
        path: the checkpoint.
        disk: that it lies on.
        work_dir: for the disk's clock.
        goal: where the run ends.
        wanted: what to bring beforehand.
        pages: see `pages_by_storage_block`: tell what came with the pages that were asked for.
        state: run this machine in that memory, not the checkpoint's own.
    """
    clock = _clock(disk, work_dir)

    def opened(name: str) -> Store:
        if state is None:
            return PacedStore.on(name, clock)
        store = _Strange.on(name, clock)
        store.state = state
        return store

    return _restored(path, opened, clock, goal, wanted, pages)


def page_by_page(path: str, image: str, disk: Disk, work_dir: str, goal: Goal) -> Restored:
    """Restore lazily from a raw image, a page for each fault and nothing else."""
    clock = _clock(disk, work_dir)
    wanted = Wanted(active=(), background=False)
    return _restored(path, lambda name: PageStore.beside(name, image, clock), clock, goal, wanted, None)


def _clock(disk: Disk, work_dir: str) -> Clock:
    return Clock(disk, os.path.join(work_dir, f"disk-{next(_numbers)}"))


def _restored(
    path: str,
    opened: Callable[[str], Store],
    clock: Clock,
    goal: Goal,
    wanted: Wanted,
    pages: Mapping[int, Sequence[int]] | None,
) -> Restored:
    begin_s = time.monotonic()
    with LazyRestore.open(path, wanted=wanted, opened=opened) as restore:
        restore.run(until_ops=goal.until_ops)
        shared = restore.shared
        reads, read_bytes = shared.total(Counter.READS), shared.total(Counter.READ_BYTES)
        clock.release()
        report = restore.finish()
        faults = list(shared.log.faults())
        order = restore.touched_order()
    clock.close()
    _check(report.digest, goal, path)
    before_s = begin_s - process_started_s()
    running_s = report.time_to_run_s - before_s
    return Restored(
        elapsed_s=report.elapsed_s - before_s,
        running_s=running_s,
        ttr_s=_ttr(faults, report.vcpus, begin_s, running_s),
        stall_s=report.stall_s,
        faults=report.faults,
        storage_reads=reads,
        read_bytes=read_bytes,
        prefetched=report.pages.prefetched,
        avoided=report.pages.prefetched_used,
        on_demand=report.pages.on_demand,
        coverage=report.coverage,
        precision=report.precision,
        fetched=None if pages is None else fetched_by(faults, pages, _touched(path, order)),
    )


def _ttr(faults: Sequence[Fault], vcpus: int, begin_s: float, running_s: float) -> tuple[float, ...]:
    stalls = stalls_of(faults, round(begin_s * 1e9))
    return tuple(ttr_curve(stalls, vcpus, running_s=running_s, window_s=WINDOW_S, leasts=UTILISATIONS))


def _touched(path: str, order: str) -> set[int]:
    with Store.open(path) as store:
        return set(unpacked_order(order, store.header.checkpoint_id, store.page_count))


def _check(digest: str, goal: Goal, path: str) -> None:
    if digest != goal.digest:
        raise WorkerError(
            "the restored machine came to another digest than the one that was never saved: "
            f"expected {goal.digest}, found {digest}",
            path=path,
        )
