"""A lazy restore: the machine runs at once, and its memory comes as it is touched.

    open ─▶ Store (a few KiB) ─▶ Machine, at rest over an empty memory ─▶ vCPUs trapped ─▶ keeper and handler ─▶ prefetch
         ─▶ resume ─▶ ... all there ─▶ vCPUs trapped no more, handler ended ─▶ (until its end) ─▶ finish: LazyReport

Called by the API and by experiments. One thread, the machine's; what fails in another process is raised here.

Longer than most modules: all of it is the order in which machine, keeper, traps and socket begin and end.
"""

import os
import select
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from vmckpt.errors import VmckptError, WorkerError
from vmckpt.kernel.clock import process_started_s
from vmckpt.kernel.features import probe
from vmckpt.kernel.process import Pidfd
from vmckpt.machine.breakups import BreakUps
from vmckpt.machine.connection import Caller, Handler
from vmckpt.machine.control import ControlServer
from vmckpt.machine.link import Link
from vmckpt.machine.machine import Machine, MachineStatus
from vmckpt.machine.ram import Ram, machine_layout
from vmckpt.machine.saves import Saves
from vmckpt.machine.session import Wishes, state_of
from vmckpt.pages import PageRange
from vmckpt.restoring.handler import KernelTrapped, Service, Trapped, Wanted
from vmckpt.restoring.keeper import Keeper
from vmckpt.restoring.log import Counter, written_lines
from vmckpt.restoring.outcome import LazyReport, Times, report_of
from vmckpt.restoring.record import ordered, packed_order, touched_order
from vmckpt.restoring.shared import Shared
from vmckpt.restoring.software import SoftTrapped, Watch
from vmckpt.restoring.store import Store
from vmckpt.restoring.touched import merged, noted_in, touched_by
from vmckpt.restoring.trap import MISSING, Traps

__all__ = ["LazyRestore"]

_TICK_S = 0.02  # until all memory is there
_CALM_TICK_S = 0.25
_EXPLAIN_S = 1.0


class LazyRestore:
    """A machine that runs while its memory is restored. Use it as a context manager: leaving it ends everything.

    Attributes:
        machine: started by `run`.
        shared: states of pages, counters and the log.
        mechanism: what makes vCPUs wait for pages, `userfaultfd` or `software`.
        prefetch_from: who said what to prefetch, as in the report.
    """

    def __init__(
        self,
        store: Store,
        machine: Machine,
        wanted: Wanted,
        control: ControlServer | None,
        shared: Shared,
        mechanism: str,
        prefetch_from: str,
    ) -> None:
        """Take all of them over."""
        self.prefetch_from = prefetch_from
        self.machine = machine
        self.mechanism = mechanism
        self.shared = shared
        self._store = store
        self._wanted = wanted
        self._control = control
        self._started_s = process_started_s()
        self._running_s = self._ended_s = self._started_s
        self._ended_by = "signal"
        self._keeper: Keeper | None = None
        self._watched = -1
        self._trapped: Trapped | None = None
        self._fds: list[
            int
        ] = []  # of the vCPUs' traps: as long as they are open here, nobody who waits is let go
        self._is_trapping = False
        self._vcpus: list[tuple[Pidfd, int]] = []  # with the address of each one's mapping
        self._touched: list[PageRange] | None = None
        self._can_tell = True  # whether `_touched` is all that was touched
        self._saves: Saves | None = None
        if control is not None:
            self._saves = Saves(machine)
            control.serve(machine, self._handlers(self._saves))

    @classmethod
    def open(
        cls,
        path: str,
        wishes: Wishes = Wishes(),  # noqa: B008 immutable
        wanted: Wanted = Wanted(),  # noqa: B008 immutable
        *,
        socket_path: str | None = None,
        mechanism: str | None = None,
        order: str | None = None,
        warn: Callable[[str], None] | None = None,
        opened: Callable[[str], Store] = Store.open,
    ) -> Self:
        """Open a checkpoint, and put a machine together over an empty memory.

        Args:
            path: the checkpoint.
            wishes: what to run.
            wanted: what to bring beforehand.
            socket_path: where to listen, if anywhere.
            order: an order file: its pages take the place of the checkpoint's active ones.
            warn: look for such a file beside the checkpoint, too, and tell this function why one is not gone by.
            mechanism: `userfaultfd`, `software`; None: userfaultfd where this process can have it.
            opened: opens the checkpoint; experiments read from disks of their own making.

        Raises:
            FeatureError: userfaultfd was asked for, and is not to be had.
            UsageError: as `machine.session.state_of`.
            FormatError: this is no checkpoint, or its vCPU state is not that of an emulated machine; or the order is
                none for it.
            CorruptionError: it is damaged where opening looks.
            IoError: it cannot be read, or somebody else listens at the socket.
        """
        store = opened(path)
        control = None
        try:
            state, recording = state_of(store, wishes)
            control = ControlServer(socket_path) if socket_path is not None else None
            wanted, prefetch_from = ordered(
                wanted, order, path, store.header.checkpoint_id, store.page_count, warn
            )
            shared = Shared(store.page_count, store.storage_blocks, len(state.vcpus))
            mechanism = mechanism or ("software" if probe().lacks(MISSING) else "userfaultfd")
            if mechanism == "software":
                commands = Watch(shared).commands
                wanted = wanted._replace(helpers=False)  # only the kernel could keep them apart
            else:
                probe().require(MISSING)
                commands = Traps().commands
            ram = Ram(machine_layout(store.layout))
            machine = Machine(ram, state, recording=recording, commands=commands)
            return cls(store, machine, wanted, control, shared, mechanism, prefetch_from)
        except BaseException:
            if control is not None:
                control.close()
            store.close()
            raise

    def _handlers(self, saves: Saves) -> dict[str, Handler]:
        """Those of any machine; before it is stopped, one last look at its page tables."""
        handlers = {**saves.handlers(), **BreakUps(self.machine).handlers()}
        stop = handlers["stop"]

        def look_and_stop(values: Mapping[str, object], caller: Caller) -> Mapping[str, object]:
            self._note_touched()
            return stop(values, caller)

        return {**handlers, "stop": look_and_stop}

    @property
    def is_resident(self) -> bool:
        """Whether all memory is there."""
        return self._keeper is not None and self._keeper.resident

    @property
    def started_s(self) -> float:
        """When the process started, on the scale of `time.monotonic`: what the report's times count from."""
        return self._started_s

    @property
    def touched(self) -> Sequence[PageRange]:
        """The pages that vCPUs have touched, ascending; once the restore is finished."""
        return self._touched or []

    def run(
        self,
        *,
        until_ops: int | None = None,
        until_resident: bool = False,
        on_tick: Callable[[MachineStatus], None] | None = None,
    ) -> None:
        """Let the machine work until it is done, or stopped by its socket.

        Args:
            until_ops: operations of each vCPU since boot; None: no end.
            until_resident: end as well when all memory is there.
            on_tick: told now and then what the machine does.

        Raises:
            CorruptionError: the checkpoint is damaged: the machine has been stopped.
            IoError: it cannot be read any more: the same.
            FeatureError: this system cannot trap touches of missing pages.
            WorkerError: a vCPU ended, or the handler could not be kept alive.
        """
        try:
            keeper = self._begin(until_ops)
            is_measured = until_ops is not None and self._control is None
            while not self.machine.wait(_TICK_S if self._is_trapping else _CALM_TICK_S):
                if self.machine.finished and self._is_trapping:
                    break  # the rest of memory is brought by `finish`
                keeper.check()
                if keeper.resident and self._is_trapping:
                    self._settle(keeper, telling=is_measured)
                if keeper.resident and until_resident:
                    self._ended_by = "resident"
                    break
                if self._control is not None and self._saves is not None:
                    self._control.expire()
                    self._saves.tick()
                if on_tick is not None:
                    on_tick(self.machine.status())
        except WorkerError:
            self._explain()
            raise
        self._ended_s = time.monotonic()
        if self._ended_by != "resident":
            self._ended_by = "until-ops" if self.machine.finished else "socket"

    def _explain(self) -> None:
        """A vCPU has ended: raise why, if that was because the restore cannot go on."""
        if self._keeper is not None:
            self._keeper.explain(_EXPLAIN_S)

    def _begin(self, until_ops: int | None) -> Keeper:
        """Start everything; returns when the vCPUs run."""
        machine = self.machine
        if self._control is not None:
            machine.activity = "restoring"  # it cannot be saved meanwhile; `wait` waits for that, too
        machine.start(until_ops=until_ops, paused=True)
        answers = machine.call("trap", {})
        self._fds = [answer.descriptors[0] for answer in answers]
        addresses = [_whole(answer.values["address"]) for answer in answers]
        ram = machine.ram
        if self.mechanism == "software":
            self._trapped = SoftTrapped(ram.fd, ram.memory_bytes, self._fds, self.shared)
        else:
            self._trapped = KernelTrapped(ram.fd, ram.memory_bytes, self._fds, addresses)
        self._is_trapping = True
        pidfds = [Pidfd(_whole(answer.values["pid"])) for answer in answers]
        self._vcpus = list(zip(pidfds, addresses, strict=True))
        self._keeper = Keeper(self._service, self._signs_of_life)
        self._keeper.await_prefetched()
        self._watch(self._keeper)
        machine.while_waiting = partial(self._attend, self._keeper, machine.while_waiting)
        machine.resume(until_ops=until_ops)
        self._running_s = time.monotonic()
        return self._keeper

    def _signs_of_life(self) -> object:
        """Changes whenever a handler has done something, or there was nothing to do."""
        counters = self.shared.log.counters
        return self.shared.total(Counter.STEPS), counters[Counter.HANDLERS] if not counters[
            Counter.BUSY
        ] else 0

    def _service(self, link: Link) -> Service:
        assert self._trapped is not None
        vcpus = [pidfd for pidfd, _ in self._vcpus]
        return Service(self._store, self.shared, self._wanted, self._trapped, link, vcpus)

    def _watch(self, keeper: Keeper) -> None:
        self._watched = keeper.fd
        self.machine.watch(keeper.fd, select.POLLIN, partial(self._hear, keeper))

    def _unwatch(self) -> None:
        if self._watched >= 0:
            self.machine.unwatch(self._watched)
            self._watched = -1

    def _hear(self, keeper: Keeper, events: int) -> None:
        del events
        self._unwatch()  # the keeper may have another descriptor once it has been heard
        keeper.hear()
        if keeper.failure is None:
            self._watch(keeper)

    def _attend(self, keeper: Keeper, others: Callable[[], object]) -> None:
        """A vCPU owes an answer: it may be waiting for a page, and the keeper be gone meanwhile."""
        if self._watched >= 0:
            self._hear(keeper, 0)
        others()

    def _settle(self, keeper: Keeper, *, telling: bool) -> None:
        """All memory is there: nothing traps any more, and the handler ends.

        With `telling`, page tables still tell what is touched, at the price of a page at a time being mapped.
        """
        if not telling:
            self._note_touched()
        self.machine.call("untrap", {"telling": telling})
        self._is_trapping = False
        self.machine.activity = None
        self._unwatch()
        keeper.close()

    def _note_touched(self) -> None:
        """Look which pages the vCPUs have touched; once, while their page tables still tell."""
        if self._touched is None and self.mechanism == "software":
            self._touched = noted_in(self.shared.touched)
        elif self._touched is None:
            size_bytes = self.machine.ram.memory_bytes
            try:
                runs = [touched_by(pidfd.pid, address, size_bytes) for pidfd, address in self._vcpus]
            except VmckptError:  # it may not look, or a vCPU has just ended: then nobody can tell
                runs = []
                self._can_tell = False
            self._touched = merged([run for each in runs for run in each])

    def finish(self) -> LazyReport:
        """Stop the machine, bring what memory is still missing, and say what came of it; the socket goes first.

        Raises:
            CorruptionError, IoError: the rest cannot be brought.
            WorkerError: a vCPU ended before.
        """
        self._note_touched()
        if self._saves is not None:
            self._saves.abort("the machine ends")
        try:
            self.machine.stop()
        except WorkerError:
            self._explain()
            raise
        if self._control is not None:
            self._control.close()
        assert self._keeper is not None
        if not self._keeper.resident:
            self._unwatch()
            self.shared.log.counters[Counter.FINISH] = 1  # for a handler that is still to come
            self._keeper.tell("finish")
            self._keeper.await_resident()
        self._keeper.close()
        self.machine.activity = None
        times = Times(self._started_s, self._running_s, self._ended_s)
        status, digest = self.machine.status(), self.machine.digest()
        return report_of(
            self.shared,
            times,
            status,
            digest,
            self._touched or [],
            self._ended_by,
            self.mechanism,
            self.prefetch_from,
        )

    def touched_order(self) -> str:
        """Which pages were touched, in the order in which to want them next time: the text of an order file.

        Once the restore is finished.
        """
        wanted = self._store.active_pages() if self._wanted.active is None else self._wanted.active
        faulted = (fault.page for fault in self.shared.log.faults())
        touched: Iterable[PageRange] = self._touched or []
        if not self._can_tell:  # then nothing that was wanted may be given up
            touched = (PageRange(page, page + 1) for page in wanted)
        pages = touched_order(wanted, faulted, touched)
        return packed_order(pages, self._store.header.checkpoint_id)

    def fault_log(self) -> Iterator[str]:
        """The log as lines of text, without line ends; see docs/restore.md."""
        start_ns = round(self._started_s * 1e9)
        values = {
            "pages": self._store.page_count,
            "vcpus": self.machine.status().vcpus,
            "storage_blocks": self._store.storage_blocks,
            "running_us": round((self._running_s - self._started_s) * 1e6),
            "ended_us": round((self._ended_s - self._started_s) * 1e6),
            "resident_us": max(self.shared.log.counters[Counter.RESIDENT_NS] - start_ns, 0) // 1000,
            "faults": self.shared.log.counters[Counter.FAULTS],
        }
        return written_lines(self.shared.log.faults(), start_ns, values)

    def close(self) -> None:
        """End everything; closing twice is fine."""
        if self._control is not None:
            self._control.close()
        self._watched = -1
        self.machine.close()
        if self._keeper is not None:
            self._keeper.close()
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        for pidfd, _ in self._vcpus:
            pidfd.close()
        self._vcpus = []
        self.shared.close()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _whole(value: object) -> int:
    assert isinstance(value, int)
    return value
