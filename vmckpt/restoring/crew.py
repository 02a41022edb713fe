"""Processes that help the handler with the background: each takes storage blocks from one queue, and brings them.

    handler ── fork ──▶ vmckpt-worker (nice 19) ── next number ──▶ bring ──▶ next number ... none left: end
       └─ next number ─▶ (between faults) bring ...                    all numbers taken: the helpers are ended, and what
                                                                       they had not finished is brought by the handler

The queue is a file of numbers that all have inherited open: reading moves the one position that they share, so no number
is taken twice. Helpers and handler may still bring a page at the same time, when a vCPU waits for it: the kernel lets
one of them. A number taken by a helper that died shows in `progress`. Used by `handler`, where the kernel does the
arbitration (userfaultfd).
"""

import contextlib
import os
import signal
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from vmckpt.kernel.memory import create_memfd
from vmckpt.kernel.process import die_with_parent, name_process

__all__ = ["MOST_HELPERS", "Helpers", "helper_count"]

_NUMBER_BYTES = 4
MOST_HELPERS = 3
_NICENESS = 19


def helper_count(pieces: int) -> int:
    """How many helpers so many pieces of work are worth: one for each core but the handler's, with some of it for each."""
    cores = len(os.sched_getaffinity(0))
    return min(cores - 1, MOST_HELPERS, pieces - 1)


class Helpers:
    """The helpers of one handler, and their queue. Used by the handler's thread."""

    def __init__(self, numbers: Sequence[int]) -> None:
        """Make the queue: these storage blocks, in this order."""
        body = array("I", numbers).tobytes()
        self._fd = create_memfd("vmckpt-queue", len(body))
        os.pwrite(self._fd, body, 0)
        self._pids: list[int] = []

    def numbers(self) -> Iterator[int]:
        """Take one number after the other, until none is left."""
        while taken := os.read(self._fd, _NUMBER_BYTES):
            yield int.from_bytes(taken, sys.byteorder)

    def start(self, count: int, work: Callable[[int, Iterator[int]], None]) -> None:
        """Fork helpers; each calls `work` with its index (from 1 on) and the numbers, and ends."""
        parent_pid = os.getpid()
        for index in range(1, count + 1):
            pid = os.fork()
            if pid == 0:
                self._live(parent_pid, index, work)
            self._pids.append(pid)

    def _live(self, parent_pid: int, index: int, work: Callable[[int, Iterator[int]], None]) -> NoReturn:
        # Whatever goes wrong, the handler will meet it when it brings what is left, and say it.
        code = 1
        try:
            die_with_parent(parent_pid)
            name_process("vmckpt-worker")
            with contextlib.suppress(OSError):
                os.nice(_NICENESS)
            work(index, self.numbers())
            code = 0
        finally:
            os._exit(code)

    def end(self) -> None:
        """End the helpers, wherever they are, and let go of the queue."""
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._pids.clear()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
