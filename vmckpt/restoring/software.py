"""Lazy restore without the kernel's help: the vCPU looks at a page's state before each operation, and asks for what lacks.

    vCPU: cells[page] in place? ── yes ─▶ the operation
                    └─ no ─▶ waiting word, request: page, is it a write ──▶ handler: fill, settle, answer: page ──▶ vCPU

What it touches it notes (`Shared.touched`): page tables would not tell, as the kernel maps up to 15 pages around a touched
one. The states are the bytes of `residency`, in memory that all processes share. A page that is not in place is touched by
nobody but the handler, so it fills the file by writing to it; once it is settled, it writes it no more. A handler that
is started again learns from the waiting words who waits.

    request    0 page  8 write  9 reserved  16            answer    0 page  8

Slower than userfaultfd, and of use only to the emulated machine, whose every access passes here. `Watch` and `SoftAccess`
live in the vCPU's process, `SoftTrapped` is the handler's side.
"""

import os
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vmckpt.kernel.faults import CopyOutcome, Event, EventKind, FaultFlag, Stop
from vmckpt.kernel.memory import Mapping as MemoryMapping
from vmckpt.machine.access import PlainAccess
from vmckpt.machine.operations import WORDS_PER_PAGE
from vmckpt.machine.processor import Command, Place, Processor
from vmckpt.pages import PAGE_BYTES, Buffer, PageRange
from vmckpt.restoring.engine import Side
from vmckpt.restoring.handler import Guests
from vmckpt.restoring.residency import Origin, Residency, State
from vmckpt.restoring.shared import Shared

__all__ = ["SoftAccess", "SoftTrapped", "Watch"]

_REQUEST = struct.Struct("<QB7x")
_ANSWER = struct.Struct("<Q")
_STATE = 7
_PRESENT = int(State.PRESENT)
_SHIFT = WORDS_PER_PAGE.bit_length() - 1
_DONE = Stop.DONE

Answer = tuple[Mapping[str, object], Sequence[int]]


class SoftAccess:
    """Accesses that wait for their page; see `machine.access.Access`."""

    __slots__ = ("_cells", "_limit", "_memory", "_share", "_socket", "_touched", "_waiting")

    def __init__(self, place: Place, shared: Shared, connection: socket.socket) -> None:
        """Ask for pages over `connection`."""
        self._memory = place.words
        self._share = place.share
        self._limit = len(place.words) - 2 * place.share.vcpus
        self._cells: Sequence[int] = shared.residency.cells
        self._touched = shared.touched
        self._waiting = shared.waiting
        self._socket = connection

    def straight(self, words: Sequence[int], draws: Sequence[int], threshold: int, register: int) -> int:
        """See `machine.access.Access`."""
        memory, cells, touched = self._memory, self._cells, self._touched
        for word, draw in zip(words, draws, strict=True):
            if cells[word >> _SHIFT] & _STATE < _PRESENT:
                self._ask(word >> _SHIFT, is_write=draw < threshold)
            touched[word >> _SHIFT] = 1
            if draw < threshold:
                memory[word] = register ^ draw
            else:
                register = register >> 1 ^ memory[word]
        return register

    def chase(self, draws: Sequence[int], threshold: int, register: int) -> int:
        """See `machine.access.Access`."""
        memory, cells, limit = self._memory, self._cells, self._limit
        touched = self._touched
        vcpu, vcpus, _ = self._share
        register %= limit
        register += (vcpu - register) % vcpus
        for draw in draws:
            is_write = draw < threshold
            word = register + vcpus if is_write else register
            if cells[word >> _SHIFT] & _STATE < _PRESENT:
                self._ask(word >> _SHIFT, is_write=is_write)
            touched[word >> _SHIFT] = 1
            if is_write:
                memory[word] = register ^ draw
            else:
                register = memory[word] % limit
                register += (vcpu - register) % vcpus
        return register

    def calm(self) -> None:
        """Nothing waits any more; what is touched is noted all the same."""
        self._cells = bytes([_PRESENT]) * len(self._cells)

    def _ask(self, page: int, *, is_write: bool) -> None:
        self._waiting[self._share.vcpu] = page + 1
        self._socket.send(_REQUEST.pack(page, is_write))
        # Answers to earlier requests may come twice, from a handler that died and from its successor.
        while self._socket.recv(_ANSWER.size) != _ANSWER.pack(page):
            pass
        self._waiting[self._share.vcpu] = 0


class Watch:
    """A vCPU's part; its commands answer as those of `trap.Traps` do."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    @property
    def commands(self) -> dict[str, Command]:
        """For `machine.Machine`."""
        return {"trap": self.trap, "untrap": self.untrap}

    def trap(self, processor: Processor, values: Mapping[str, object], descriptors: Sequence[int]) -> Answer:
        """From now on a touch of a missing page waits. Answers with the handler's end of the connection."""
        del values, descriptors
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        processor.access = SoftAccess(processor.place, self._shared, ours)
        return {"address": processor.place.memory.address, "pid": os.getpid()}, [theirs.detach()]

    def untrap(
        self, processor: Processor, values: Mapping[str, object], descriptors: Sequence[int]
    ) -> Answer:
        """Nothing waits any more. With `telling`, what is touched is noted to the end."""
        del descriptors
        if values["telling"] and isinstance(processor.access, SoftAccess):
            processor.access.calm()
            return {}, ()
        processor.access = PlainAccess(processor.place.words, processor.place.share)
        return {}, ()


class SoftTrapped(NamedTuple):
    """vCPUs that ask for their pages; the handler's `Trapped`."""

    ram_fd: int
    memory_bytes: int
    connections: Sequence[int]
    shared: Shared

    @property
    def fds(self) -> Sequence[int]:
        """What a handler's process must keep open."""
        return [self.ram_fd, *self.connections]

    def open(self) -> Guests:
        """Called in the handler's process."""
        memory = MemoryMapping.of_file(self.ram_fd, self.memory_bytes).view
        residency, waiting = self.shared.residency, self.shared.waiting
        sides = [
            Side(_Asker(memory, residency, socket.socket(fileno=os.dup(fd)), waiting, vcpu), 0)
            for vcpu, fd in enumerate(self.connections)
        ]
        return Guests(Side(_Writer(memory), 0), sides, self.connections)


class _Writer:
    """Fills pages by writing them; `kernel.faults.Faults` with addresses counted from the start of memory."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory

    def copy(
        self, dst: int, src: int | Buffer, length_bytes: int, *, wp: bool = False, wake: bool = True
    ) -> CopyOutcome:
        del wp, wake
        assert not isinstance(src, int)
        self._memory[dst : dst + length_bytes] = memoryview(src)[:length_bytes]
        return CopyOutcome(length_bytes, _DONE)

    def zero(self, address: int, length_bytes: int, *, wake: bool = True) -> CopyOutcome:
        del address, wake  # it is a hole, and reads as zeros
        return CopyOutcome(length_bytes, _DONE)

    def proceed(self, address: int, length_bytes: int, *, wp: bool = False, wake: bool = True) -> CopyOutcome:
        del address, wp, wake
        return CopyOutcome(length_bytes, _DONE)

    def wake(self, address: int, length_bytes: int) -> None:
        del address, length_bytes

    def read_events(self, limit: int = 16) -> list[Event]:
        del limit
        return []


class _Asker(_Writer):
    """A vCPU that asks."""

    def __init__(
        self,
        memory: memoryview,
        residency: Residency,
        connection: socket.socket,
        waiting: memoryview,
        vcpu: int,
    ) -> None:
        super().__init__(memory)
        self._residency = residency
        self._socket = connection
        self._waiting = waiting
        self._vcpu = vcpu
        self._again: list[Event] = []
        connection.setblocking(False)

    def copy(
        self, dst: int, src: int | Buffer, length_bytes: int, *, wp: bool = False, wake: bool = True
    ) -> CopyOutcome:
        super().copy(dst, src, length_bytes, wp=wp, wake=wake)
        return self._settle(dst, length_bytes, State.PRESENT)

    def zero(self, address: int, length_bytes: int, *, wake: bool = True) -> CopyOutcome:
        del wake
        return self._settle(address, length_bytes, State.ZERO)

    def _settle(self, address: int, length_bytes: int, state: State) -> CopyOutcome:
        # Before the vCPU may write to it: a successor would write a page once more that is only claimed.
        page = address // PAGE_BYTES
        self._residency.settle(PageRange(page, page + length_bytes // PAGE_BYTES), state, Origin.DEMAND)
        self._answer(page)
        return CopyOutcome(length_bytes, _DONE)

    def _answer(self, page: int) -> None:
        try:
            self._socket.send(_ANSWER.pack(page))
        except OSError:
            return  # it has ended

    def wake(self, address: int, length_bytes: int) -> None:
        if length_bytes == PAGE_BYTES:
            self._answer(address // PAGE_BYTES)
        elif self._waiting[self._vcpu]:  # everybody: it asked a handler that is no more
            self._again.append(_event(self._waiting[self._vcpu] - 1, is_write=False))

    def read_events(self, limit: int = 16) -> list[Event]:
        events, self._again = self._again, []
        while len(events) < limit:
            try:
                request = self._socket.recv(_REQUEST.size)
            except OSError:  # none is there, or the vCPU has ended
                break
            if len(request) != _REQUEST.size:
                break
            page, is_write = _REQUEST.unpack(request)
            events.append(_event(page, is_write=bool(is_write)))
        return events


def _event(page: int, *, is_write: bool) -> Event:
    address = page * PAGE_BYTES
    return Event(EventKind.FAULT, address, address, FaultFlag.WRITE if is_write else 0, 0)
