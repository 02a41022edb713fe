"""Accesses that look at a table of traces first: what a vCPU does where the kernel does not trap its touches.

    page's byte in the table has the touch's bit?  ─ no ─▶ touch
          └─ yes ─▶ tell the tracer (page, write) ─▶ wait for one byte ─▶ look again
                                                 └─ end of the stream: the tracer has gone; trace nothing any more

Same operations, same results as `access.PlainAccess`. Table and message are those of `trace.software`, whose tracer is at
the other end. Made by `tracing`.
"""

import socket
from collections.abc import Sequence

from vmckpt.machine.access import PlainAccess
from vmckpt.machine.operations import Share
from vmckpt.trace.software import READ, TOUCH, WRITE

__all__ = ["TracedAccess"]

_PAGE_SHIFT = 9  # 512 words in a page


class TracedAccess:
    """Accesses of one vCPU. It owns its socket; the row stays the caller's."""

    def __init__(self, memory: memoryview, share: Share, row: memoryview, tracer: socket.socket) -> None:
        """Trace accesses.

        Args:
            memory: the vCPU's mapping, as 64-bit words.
            share: which of them are its own.
            row: the vCPU's traces, one byte for each page.
            tracer: where to tell touches, and wait (SOCK_SEQPACKET).
        """
        self._memory = memory
        self._share = share
        self._row = row
        self._tracer = tracer
        self._plain = PlainAccess(memory, share)
        self._limit = len(memory) - 2 * share.vcpus  # as in PlainAccess
        self._is_traced = True

    def straight(self, words: Sequence[int], draws: Sequence[int], threshold: int, register: int) -> int:
        """See `Access`."""
        if not self._is_traced:
            return self._plain.straight(words, draws, threshold, register)
        memory, row, asks = self._memory, self._row, self._asks
        for word, draw in zip(words, draws, strict=True):
            page = word >> _PAGE_SHIFT
            if draw < threshold:
                while row[page] & WRITE and asks(page, 1):
                    pass
                memory[word] = register ^ draw
            else:
                while row[page] & READ and asks(page, 0):
                    pass
                register = register >> 1 ^ memory[word]
        return register

    def chase(self, draws: Sequence[int], threshold: int, register: int) -> int:
        """See `Access`."""
        if not self._is_traced:
            return self._plain.chase(draws, threshold, register)
        memory, limit, row, asks = self._memory, self._limit, self._row, self._asks
        vcpu, vcpus, _ = self._share
        register %= limit
        register += (vcpu - register) % vcpus
        for draw in draws:
            if draw < threshold:
                page = register + vcpus >> _PAGE_SHIFT
                while row[page] & WRITE and asks(page, 1):
                    pass
                memory[register + vcpus] = register ^ draw
            else:
                page = register >> _PAGE_SHIFT
                while row[page] & READ and asks(page, 0):
                    pass
                register = memory[register] % limit
                register += (vcpu - register) % vcpus
        return register

    def _asks(self, page: int, write: int) -> bool:
        """Wait for the tracer; False where there is none any more."""
        if self._is_traced:
            try:
                self._tracer.send(TOUCH.pack(page, write))
                self._is_traced = bool(self._tracer.recv(1))
            except OSError:
                self._is_traced = False
        return self._is_traced

    def close(self) -> None:
        """Trace nothing any more."""
        self._is_traced = False
        self._tracer.close()
