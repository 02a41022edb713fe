"""A tracer that needs nothing of the kernel: a table of traces that each vCPU looks at before it touches a page.

    vCPU      table[page] & READ or WRITE?  ─ no ─▶ touch                  table   one row for each vCPU, one byte for
                   │ yes                                                           each page: READ | WRITE
                   └─▶ send (page, write) ─▶ wait for one byte ─▶ touch
    tracer    traps: receive ─▶ let: clear bits, send one byte             arm: set WRITE in every row

The table is a memfd that the vCPUs and the tracer map; once the vCPUs run, only the tracer process writes to it. A vCPU
may be between its look and its touch when a trace is armed: whoever needs the trace to hold has every vCPU pass between
two operations first. A vCPU whose socket ends traces nothing any more and goes on, as the kernel's traces would.

The vCPU's side is `machine.traced`; what both sides have to agree on stands here. The tracer is called by `serve`.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from vmckpt.errors import IoError
from vmckpt.kernel.memory import Mapping, create_memfd
from vmckpt.pages import PageRange
from vmckpt.trace.rules import Needs
from vmckpt.trace.tracer import Trap

__all__ = ["GO_ON", "READ", "TOUCH", "WRITE", "SoftwareTracer", "TraceTable", "create_table", "traces_of"]

READ = 1
"""Bit of a page's byte: reads of it trap."""
WRITE = 2
"""Bit of a page's byte: writes to it trap."""
TOUCH = struct.Struct("<QB7x")
"""What a vCPU sends: page, and 1 for a write."""
GO_ON = b"\0"
"""What it waits for."""

# Tables of bytes.translate: what becomes of each byte of the table.
_WITHOUT_READ = bytes(byte & ~READ for byte in range(256))
_WITH_WRITE = bytes(byte | WRITE for byte in range(256))
_WITH_BOTH = bytes(byte | READ | WRITE for byte in range(256))


def create_table(page_count: int, vcpus: int) -> int:
    """A memfd for a table that traces nothing; the caller owns the descriptor.

    Raises:
        FeatureError: this system has no memfd.
        IoError: there is no memory for it.
    """
    return create_memfd("vmckpt-traces", page_count * vcpus, sealed=True)


def traces_of(needs: Needs) -> int:
    """The traces that every page has at first."""
    return (READ | WRITE if needs.first_touch else 0) | (WRITE if needs.writes else 0)


class TraceTable:
    """One process's mapping of the table.

    Attributes:
        page_count: pages in a row.
        rows: the row of each vCPU, `B`.
    """

    def __init__(self, fd: int, page_count: int, vcpus: int) -> None:
        """Map the table at `fd`, which stays the caller's.

        Raises:
            IoError: it cannot be mapped, or is shorter than that.
        """
        self.page_count = page_count
        self._mapping = Mapping.of_file(fd, page_count * vcpus)
        with self._mapping.view as view:
            self.rows = [view[vcpu * page_count : (vcpu + 1) * page_count] for vcpu in range(vcpus)]

    def fill(self, traces: int) -> None:
        """Give every page these traces, READ and WRITE, for every vCPU."""
        for row in self.rows:
            row[:] = bytes([traces]) * self.page_count

    def close(self) -> None:
        """Unmap it. Closing twice is fine."""
        for row in self.rows:
            row.release()
        self._mapping.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SoftwareTracer:
    """Traps of the vCPUs at the other ends of some sockets. See `Tracer` for threads and forks."""

    def __init__(self, table: TraceTable, sockets: Sequence[socket.socket]) -> None:
        """Take over `sockets` (SOCK_SEQPACKET), one for each vCPU; `table` stays the caller's, and open."""
        self._rows = table.rows
        self._page_count = table.page_count
        self._sockets = list(sockets)
        self._vcpu_of_fd = {each.fileno(): vcpu for vcpu, each in enumerate(self._sockets)}
        for each in self._sockets:
            each.setblocking(False)

    def descriptors(self) -> Sequence[int]:
        """See `Tracer`."""
        return list(self._vcpu_of_fd)

    def traps(self, fd: int) -> list[Trap]:
        """See `Tracer`; a vCPU waits for its answer, so there is one trap at most."""
        vcpu = self._vcpu_of_fd[fd]
        try:
            message = os.read(fd, TOUCH.size + 1)
        except (BlockingIOError, ConnectionError):
            return []
        if not message:
            return []  # the vCPU has ended
        if len(message) != TOUCH.size:
            raise IoError(f"vCPU {vcpu} told a touch in {len(message)} bytes, expected {TOUCH.size}")
        page, write = TOUCH.unpack(message)
        if page >= self._page_count or write > 1:
            raise IoError(
                f"vCPU {vcpu} told a touch of kind {write} beyond its {self._page_count} pages", page=page
            )
        return [Trap(vcpu, page, write == 1, 0)]

    def let(self, trap: Trap, pages: PageRange, *, writes: bool) -> None:
        """See `Tracer`."""
        row, (start, end) = self._rows[trap.vcpu], pages
        if writes:
            row[start:end] = bytes(end - start)
        else:
            row[start:end] = bytes(row[start:end]).translate(_WITHOUT_READ)
        with contextlib.suppress(BlockingIOError, ConnectionError):  # it has ended, or waits for nothing
            self._sockets[trap.vcpu].send(GO_ON)

    def arm(self, pages: PageRange, *, reads: bool = False) -> None:
        """See `Tracer`; who touched memory just now may not have seen it yet (see above)."""
        start, end = pages
        armed = _WITH_BOTH if reads else _WITH_WRITE
        for row in self._rows:
            row[start:end] = bytes(row[start:end]).translate(armed)

    def close(self) -> None:
        """See `Tracer`."""
        for each in self._sockets:
            each.close()
