"""The process `vmckpt-handler`: it waits for faults, answers them, and works on the background meanwhile.

    fork ─▶ (recover) ─▶ prefetch ─▶ "prefetched" ─▶ ┌─▶ faults? ── answer ──┐ ─▶ all there: "resident" ─▶ zeros only ─▶ "end"
                                                     └── none: a step of the background ◀┘

It may be killed at any moment. All that its successor needs is in memory that they share, in the guest's memory itself,
and with the kernel; what the successor repeats, the kernel refuses to do twice. What it cannot do at all, because the
checkpoint is damaged or cannot be read, it says ("failed") and ends the vCPUs: none goes on without its memory. Forked by
`keeper`.
"""

import gc
import os
import select
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from vmckpt.errors import VmckptError, WorkerError
from vmckpt.kernel.memory import Mapping as MemoryMapping
from vmckpt.kernel.process import Pidfd, name_process
from vmckpt.kernel.uffdio import Mode
from vmckpt.kernel.userfaultfd import Userfaultfd
from vmckpt.machine.link import Link, Message
from vmckpt.restoring.background import Background
from vmckpt.restoring.crew import BACKGROUND, Helpers, helper_count
from vmckpt.restoring.engine import Engine, Side
from vmckpt.restoring.log import Counter
from vmckpt.restoring.pending import Pending
from vmckpt.restoring.prefetch import Amount, Prefetch, Trip, plan_prefetch, trips_of
from vmckpt.restoring.shared import Shared
from vmckpt.restoring.store import Store
from vmckpt.restoring.trap import MISSING

__all__ = ["FAILED", "Guests", "KernelTrapped", "Service", "Trapped", "Wanted", "serve"]

FAILED = 3
"""Exit code of a handler that has said why it cannot go on."""


class Wanted(NamedTuple):
    """What to bring before it is asked for."""

    active: Sequence[int] | None = None
    """Pages in the order of their first touch; None: those that the checkpoint lists."""
    amount: Amount = Amount()
    halo_pages: int = 0
    background: bool = True
    """Bring all the rest, too, while the vCPUs run; if not, only what lies in a storage block that a fault brought."""
    helpers: bool = True
    """Have as many processes work on that as there are cores to spare."""


class Guests(NamedTuple):
    """The guest's memory, as a handler's process has it."""

    filler: Side
    sides: Sequence[Side]
    """The vCPUs', in order."""
    fds: Sequence[int]
    """Of each: readable when it has faults to tell."""


class Trapped(Protocol):
    """How vCPUs are made to wait for pages."""

    @property
    def fds(self) -> Sequence[int]:
        """What a handler's process must keep open."""

    def open(self) -> Guests:
        """What answers them; called in a handler's process."""


class KernelTrapped(NamedTuple):
    """vCPUs whose mappings trap with userfaultfd."""

    ram_fd: int
    memory_bytes: int
    uffds: Sequence[int]
    """Of each vCPU: a copy stays with the supervisor, so that no waiting vCPU is let go when a handler dies."""
    addresses: Sequence[int]
    """Of each vCPU's mapping."""

    @property
    def fds(self) -> Sequence[int]:
        """What a handler's process must keep open."""
        return [self.ram_fd, *self.uffds]

    def open(self) -> Guests:
        """Called in the handler's process: a mapping of its own, which nobody touches but by the kernel's hand."""
        mapping = MemoryMapping.of_file(self.ram_fd, self.memory_bytes)
        uffd = Userfaultfd.open(MISSING)
        uffd.register(mapping.address, mapping.size_bytes, Mode.MISSING)
        # They live as long as the process: the sides need only the descriptors, and the mapping's address.
        _KEPT.append((mapping, uffd))
        sides = [
            Side(Userfaultfd(fd), address) for fd, address in zip(self.uffds, self.addresses, strict=True)
        ]
        return Guests(Side(uffd, mapping.address), sides, self.uffds)


_KEPT: list[object] = []
_EXPECT_NS = 20_000
"""How long after a fault only the next one is looked for: it often comes at once, and would find the handler at work."""
_MOST_HURRIED = 3
"""Faults that are answered so without anything else being done: what else there is to do saves the guest other faults."""


class Service(NamedTuple):
    """All that a handler is told."""

    store: Store
    shared: Shared
    wanted: Wanted
    trapped: Trapped
    link: Link
    """To the supervisor."""
    vcpus: Sequence[Pidfd]

    @property
    def fds(self) -> set[int]:
        """The descriptors that it needs."""
        pids = (vcpu.fileno() for vcpu in self.vcpus)
        own = {self.store.fileno(), self.shared.pending_fd, self.link.fileno()}
        return {*own, *self.trapped.fds, *pids}


def serve(service: Service) -> int:
    """The life of a handler; returns its exit code."""
    name_process("vmckpt-handler")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the supervisor decides
    gc.disable()  # it makes no cycles, and objects of the parent are not its own to finalize
    try:
        _serve(service)
    except VmckptError as error:
        fail(service, error)
        return FAILED
    except Exception as error:
        fail(service, WorkerError(f"the fault handler failed: {type(error).__name__}: {error}"))
        raise
    return 0


def fail(service: Service, error: VmckptError) -> None:
    """Tell the supervisor, and end the vCPUs: none of them can go on."""
    values = {
        "kind": type(error).__name__,
        "message": error.message,
        "path": error.path,
        "offset": error.offset,
    }
    try:
        service.link.send(Message("failed", 0, values))
    finally:
        for vcpu in service.vcpus:
            vcpu.signal(signal.SIGKILL)


def _serve(service: Service) -> None:
    shared, store = service.shared, service.store
    guests = service.trapped.open()
    engine = Engine(store, shared.residency, guests.filler, guests.sides, shared.log)
    counters = shared.log.counters
    if counters[Counter.HANDLERS] > 1:
        engine.wake_all()
    wanted = service.wanted
    active = store.active_pages() if wanted.active is None else wanted.active

    def plan() -> Prefetch:
        return plan_prefetch(active, wanted.amount, halo_pages=wanted.halo_pages, page_count=store.page_count)

    def rest() -> list[Trip]:  # made when its turn has come: faults come before it
        left = shared.residency.missing_of(plan().rest)  # a predecessor may have brought most of it
        return trips_of(left, store.block_pages, store.place_of)

    crew = _Helped(service) if wanted.helpers else None
    walks = wanted.background or bool(counters[Counter.FINISH])
    pending = Pending(shared.pending_fd)
    background = Background(engine, shared.progress, rest, crew, walks=walks, pending=pending)
    if not counters[Counter.PREFETCHED]:
        start_ns = time.monotonic_ns()
        _prefetch(service, background, trips_of(plan().first, store.block_pages, store.place_of))
        counters[Counter.PREFETCH_NS] += time.monotonic_ns() - start_ns
        counters[Counter.PREFETCHED] = 1
    service.link.send(Message("prefetched", 0, {}))
    _Loop(service, guests, engine, background).run()


def _prefetch(service: Service, background: Background, trips: Sequence[Trip]) -> None:
    """Bring what is wanted before the vCPUs run, with as many processes as there are cores."""
    count = helper_count(len(trips)) if service.wanted.helpers else 0
    if count:
        helpers = Helpers(range(len(trips)))
        helpers.start(count, partial(_help_prefetch, service, trips))
        background.do(background.prefetch(trips[each] for each in helpers.numbers()))
        if helpers.wait():
            return
        background.do(background.finish_claims())
    background.do(background.prefetch(trips))


def _help_prefetch(service: Service, trips: Sequence[Trip], index: int, numbers: Iterator[int]) -> None:
    background = _helping(service, index)
    background.do(background.prefetch(trips[each] for each in numbers))


def _help_walk(service: Service, index: int, stretches: Iterator[int]) -> None:
    background = _helping(service, index)
    background.do(background.bring_stretches(stretches))


def _helping(service: Service, index: int) -> Background:
    """What a helper's process works with."""
    shared = service.shared
    filler = service.trapped.open().filler
    engine = Engine(service.store.apart(), shared.residency, filler, (), shared.log_of(index))
    return Background(engine, shared.progress, pending=Pending(shared.pending_fd))


class _Helped:
    """Helpers for the walk through the file; see `crew`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._helpers: Helpers | None = None

    def begin(self, stretches: Sequence[int]) -> Iterator[int]:
        count = helper_count(len(stretches))
        if not count:
            return iter(stretches)
        self._helpers = Helpers(stretches, niceness=BACKGROUND)
        self._helpers.start(count, partial(_help_walk, self._service))
        return self._helpers.numbers()

    def end(self) -> None:
        if self._helpers is not None:
            self._helpers.end()
            self._helpers = None


class _Loop:
    """Faults first, then work."""

    def __init__(self, service: Service, guests: Guests, engine: Engine, background: Background) -> None:
        self._link = service.link
        self._engine = engine
        self._background = background
        self._counters = service.shared.log.counters
        # On one core, the vCPU runs only when the handler does something that waits.
        self._expect_ns = _EXPECT_NS if len(os.sched_getaffinity(0)) > 1 else 0
        self._poll = select.poll()
        self._poll.register(self._link.fileno(), select.POLLIN)
        self._vcpu_of: Mapping[int, int] = {fd: vcpu for vcpu, fd in enumerate(guests.fds)}
        for fd in guests.fds:
            self._poll.register(fd, select.POLLIN)

    def run(self) -> None:
        """Until told to end, or until the supervisor is gone."""
        is_busy, hurried, calm_ns = True, 0, 0
        for known in self._vcpu_of.values():
            self._engine.poll(known)  # a predecessor may have heard what no descriptor tells again
        while True:
            if is_busy:
                ready = self._poll.poll(0)
            else:
                self._counters[Counter.BUSY] = 0
                ready = self._poll.poll(None)
                self._counters[Counter.BUSY] = 1
            for fd, events in ready:
                vcpu = self._vcpu_of.get(fd)
                if vcpu is None:  # the link
                    message = self._link.receive()
                    if message is None or message.name == "end":
                        return
                    self._background.walks = True  # "finish": nobody is there to fault any more
                    is_busy = True
                    continue
                if events & select.POLLIN:
                    self._engine.poll(vcpu)
                    is_busy = not self._background.finished
                    hurried += 1
                    calm_ns = time.monotonic_ns() + self._expect_ns
                if events & ~select.POLLIN:
                    self._poll.unregister(fd)  # the vCPU has ended
            if ready or not is_busy:
                continue
            if hurried < _MOST_HURRIED and time.monotonic_ns() < calm_ns:
                continue
            calm_ns = hurried = 0
            if not self._background.step():
                is_busy = False
                if self._background.finished:
                    self._tell_resident()

    def _tell_resident(self) -> None:
        now_ns = self._counters[Counter.RESIDENT_NS] or time.monotonic_ns()
        self._link.send(Message("resident", 0, {"at_ns": now_ns}))
        self._counters[Counter.RESIDENT_NS] = now_ns
