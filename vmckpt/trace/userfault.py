"""The tracer that the kernel helps: one userfaultfd for each vCPU's own mapping of the machine's memfd.

    event      the page is                     let, writes too              let, reads only
    MINOR      in the file, not mapped here    CONTINUE                     CONTINUE, protected
    (missing)  not in the file                 ZEROPAGE                     COPY of zeros, protected
    WP         mapped and protected            unprotect, which wakes       (a write: never asked for)

All vCPUs map one file, so what one of them fills the others' fills meet (EXISTS), and it is CONTINUEd there. A range is
gone through from stop to stop: pages mapped already are stepped over, and holes as well, for to fill them would inflate
a sparse machine. But whoever meets a second hole of the range is about to use it: all of its holes are filled then, so
a block costs a vCPU two traps at most. Where writes are let and mapped pages were met, the range is unprotected as a
whole: they may have been let in for reads only, and would trap again.

Nothing here waits for a vCPU. The kernel may answer AGAIN: an event has to be read first. It is read and kept, and an
eventfd among the descriptors says so. Called by `serve`, in another process than the vCPUs' (`kernel.userfaultfd`).
"""

import contextlib
import errno
import os
import select
from collections.abc import Callable, Sequence
from typing import NoReturn, Protocol

from vmckpt.errors import IoError
from vmckpt.kernel.faults import Event, EventKind, FaultFlag, Faults, Stop
from vmckpt.layout import PAGE_BYTES
from vmckpt.pages import PageRange
from vmckpt.trace.tracer import Trap

__all__ = ["ProtectingFaults", "UserfaultTracer"]

_WRITE, _WP, _MINOR = int(FaultFlag.WRITE), int(FaultFlag.WP), int(FaultFlag.MINOR)
_ZEROS = bytes(32 * PAGE_BYTES)
_AGAIN_MS = 1
_MOST_AGAIN = 5000  # in a row: with the wait, some five seconds


class ProtectingFaults(Faults, Protocol):
    """What the tracer asks of `kernel.userfaultfd.Userfaultfd`."""

    def write_protect(self, address: int, length_bytes: int, on: bool, *, wake: bool = True) -> Stop:
        """Protect a range, or lift its protection and wake who waits there."""

    def fileno(self) -> int:
        """The descriptor, to poll."""

    def close(self) -> None:
        """Close this copy of the descriptor."""


class _Absent(Exception):  # noqa: N818 no error: the vCPU has ended, or maps this no more
    pass


class UserfaultTracer:
    """Traps of the mappings behind some userfaultfds. See `Tracer` for threads and forks."""

    def __init__(
        self,
        faults: Sequence[ProtectingFaults],
        bases: Sequence[int],
        page_count: int,
        *,
        memory_fd: int | None = None,
    ) -> None:
        """Take over `faults`, one for each vCPU.

        Args:
            faults: registered on the whole mapping, as `rules.needs` says.
            bases: where the mapping of each vCPU begins, in its process.
            page_count: of the memory, all of which each mapping maps.
            memory_fd: the memfd that they map, to step over many holes in one go. It stays the caller's, and open.
        """
        self._late_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._late: list[Trap] = []
        self._mappings = [
            _Mapping(vcpu, each, base, page_count, memory_fd, self._keep)
            for vcpu, (each, base) in enumerate(zip(faults, bases, strict=True))
        ]
        self._of_fd = {mapping.faults.fileno(): mapping for mapping in self._mappings}
        self._met_hole: set[int] = set()  # first pages of the ranges in which a hole was filled

    def descriptors(self) -> Sequence[int]:
        """See `Tracer`."""
        return [*self._of_fd, self._late_fd]

    def traps(self, fd: int) -> list[Trap]:
        """See `Tracer`."""
        if fd != self._late_fd:
            mapping = self._of_fd[fd]
            return mapping.traps_in(mapping.faults.read_events())
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(fd)
        late, self._late = self._late, []
        return late

    def _keep(self, traps: list[Trap]) -> None:
        self._late += traps
        os.eventfd_write(self._late_fd, 1)

    def let(self, trap: Trap, pages: PageRange, *, writes: bool) -> None:
        """See `Tracer`."""
        mapping = self._mappings[trap.vcpu]
        mapping.again = 0
        try:
            self._let(mapping, trap, pages, writes=writes)
        except _Absent:
            # Or the mapping is in pieces (advice about a part splits it), and what crosses a seam is refused.
            with contextlib.suppress(_Absent):
                self._let(mapping, trap, PageRange(trap.page, trap.page + 1), writes=writes)

    def _let(self, mapping: "_Mapping", trap: Trap, pages: PageRange, *, writes: bool) -> None:
        (start, end), page, how, wp = pages, trap.page, trap.how, not writes
        if how & _WP:
            mapping.protect(start, end, on=False)
            return
        rest, fill, mapped = start, False, False
        if how & _MINOR:
            rest, stop = mapping.proceed(start, end, wp=wp)
            if stop is Stop.DONE:
                return
        elif end - start > 1:
            fill = start in self._met_hole
            self._met_hole.add(start)
        if rest <= page:  # it comes first: the vCPU waits for it alone
            mapped = mapping.admit(page, wp=wp, missing=not how & _MINOR)
            mapped |= mapping.bring(rest, page, wp=wp, fill=fill)
            rest = page + 1
        mapped |= mapping.bring(rest, end, wp=wp, fill=fill)
        if mapped and writes:
            with contextlib.suppress(_Absent):  # not registered for protection: then nothing is protected
                mapping.protect(start, end, on=False)

    def arm(self, pages: PageRange, *, reads: bool = False) -> None:  # noqa: ARG002 reads are the vCPU's to arm
        """See `Tracer`; takes 3 ms for each GiB of a vCPU that maps nothing yet, and 10 where all is mapped."""
        for mapping in self._mappings:
            mapping.again = 0
            try:
                mapping.protect(*pages, on=True)
            except _Absent as absent:
                if absent.args[0] is not Stop.GONE:  # a vCPU that has ended writes no more
                    raise IoError(
                        f"cannot trap writes of vCPU {mapping.vcpu} to pages {pages.start} to {pages.end}: "
                        "its mapping is not set up for that, or is there no more"
                    ) from None

    def close(self) -> None:
        """See `Tracer`."""
        for mapping in self._mappings:
            mapping.faults.close()
        if self._late_fd >= 0:
            os.close(self._late_fd)
            self._late_fd = -1


class _Mapping:
    """One vCPU's mapping, by page number."""

    def __init__(
        self,
        vcpu: int,
        faults: ProtectingFaults,
        base: int,
        page_count: int,
        memory_fd: int | None,
        keep: Callable[[list[Trap]], None],
    ) -> None:
        self.vcpu = vcpu
        self.faults = faults
        self.base = base
        self.again = 0  # answers in a row
        self._page_count = page_count
        self._memory_fd = memory_fd
        self._keep = keep

    def traps_in(self, events: list[Event]) -> list[Trap]:
        """Events that are no faults need no answer, only to be read."""
        traps = []
        for kind, address, _, flags, _ in events:
            if kind is EventKind.FAULT:
                page = (address - self.base) // PAGE_BYTES
                if not 0 <= page < self._page_count:
                    raise IoError(
                        f"vCPU {self.vcpu} trapped at {address:#x}, outside its {self._page_count} pages of memory"
                    )
                traps.append(Trap(self.vcpu, page, flags & _WRITE != 0, flags))
        return traps

    def protect(self, start: int, end: int, *, on: bool) -> None:
        address, length_bytes = self.base + start * PAGE_BYTES, (end - start) * PAGE_BYTES
        while (stop := self.faults.write_protect(address, length_bytes, on)) is not Stop.DONE:
            self._heed(stop)

    def proceed(self, start: int, end: int, *, wp: bool) -> tuple[int, Stop]:
        """Map what the file has; the page that stopped it, and why."""
        done, stop = self.faults.proceed(self.base + start * PAGE_BYTES, (end - start) * PAGE_BYTES, wp=wp)
        return start + done // PAGE_BYTES, stop

    def admit(self, page: int, *, wp: bool, missing: bool) -> bool:
        """Map one page, come what may, and wake who waits for it; whether it was mapped."""
        start = self._fill(page, page + 1, wp=wp) if missing else page
        mapped = self.bring(start, page + 1, wp=wp, fill=True)
        if mapped:
            self.faults.wake(self.base + page * PAGE_BYTES, PAGE_BYTES)
        return mapped

    def bring(self, start: int, end: int, *, wp: bool, fill: bool) -> bool:
        """Map what the file has, step over what is mapped, and over holes unless `fill`; whether any was mapped."""
        mapped = False
        while start < end:
            start, stop = self.proceed(start, end, wp=wp)
            if stop is Stop.DONE:
                break
            if stop is Stop.EXISTS:
                mapped = True
                start += 1
            elif stop is not Stop.HOLE:
                self._heed(stop)
            elif fill:
                start = self._fill(start, end, wp=wp)
            else:
                start = self._after_hole(start)
        return mapped

    def _fill(self, start: int, end: int, *, wp: bool) -> int:
        """Fill holes from the one at `start` on; where that ended."""
        address, length_bytes = self.base + start * PAGE_BYTES, (end - start) * PAGE_BYTES
        if wp:  # zero pages cannot be had protected
            done, stop = self.faults.copy(address, _ZEROS, min(length_bytes, len(_ZEROS)), wp=True)
        else:
            done, stop = self.faults.zero(address, length_bytes)
        if not done:
            # EXISTS: another vCPU's mapping brought it into the file since; counted, so this ends whatever happens.
            self._heed(Stop.AGAIN if stop is Stop.EXISTS else stop)
        return start + done // PAGE_BYTES

    def _after_hole(self, page: int) -> int:
        """The next page that the file may have."""
        if self._memory_fd is None:
            return page + 1
        try:
            offset = os.lseek(self._memory_fd, (page + 1) * PAGE_BYTES, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # none, up to the end
                return self._page_count
            return page + 1
        return offset // PAGE_BYTES

    def _heed(self, stop: Stop) -> None:
        """Read what is in the way, and count; or give up."""
        if stop is not Stop.AGAIN:
            raise _Absent(stop)
        self.again += 1
        if self.again > _MOST_AGAIN:
            self._give_up()
        events = self.faults.read_events()
        if traps := self.traps_in(events):
            self._keep(traps)
        if not events and self.again > 1:
            poll = select.poll()
            poll.register(self.faults.fileno(), select.POLLIN)
            poll.poll(_AGAIN_MS)

    def _give_up(self) -> NoReturn:
        raise IoError(f"userfaultfd asked {_MOST_AGAIN} times to try again to answer vCPU {self.vcpu}")
