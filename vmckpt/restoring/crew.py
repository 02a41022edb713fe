"""Processes that help the handler: each takes numbers of pieces of work from one queue, and does them.

    handler ── fork ──▶ vmckpt-worker ── next number ──▶ bring ──▶ next number ... none left: end
       └─ next number ─▶ (between faults) bring ...                    all numbers taken: the helpers are ended, or waited
                                                                       for, and what they have not finished is brought by
                                                                       the handler

They help with the prefetch, which vCPUs wait for, and with the background, at nice 19. The queue is a file of numbers that
all have inherited open: reading moves the one position that they share, so no number is taken twice. Helpers and handler may still bring a page at the same time, when a vCPU waits for it: the kernel lets
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

from vmckpt.errors import VmckptError
from vmckpt.kernel.memory import create_memfd
from vmckpt.kernel.process import die_with_parent, name_process

__all__ = ["BACKGROUND", "MOST_HELPERS", "Helpers", "helper_count"]

_NUMBER_BYTES = 4
MOST_HELPERS = 3
BACKGROUND = 19
"""The niceness of who works while the machine runs."""


def helper_count(pieces: int) -> int:
    """How many helpers so many pieces of work are worth: one for each core but the handler's, with some of it for each."""
    cores = len(os.sched_getaffinity(0))
    return min(cores - 1, MOST_HELPERS, pieces - 1)


class Helpers:
    """The helpers of one handler, and their queue. Used by the handler's thread."""

    def __init__(self, numbers: Sequence[int], *, niceness: int = 0) -> None:
        """Make the queue: these numbers, in this order."""
        self._niceness = niceness
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
                os.nice(self._niceness)
            work(index, self.numbers())
            code = 0
        except VmckptError:
            pass
        except Exception:  # noqa: BLE001 - a bug, which nobody would hear of: the handler does the work all the same
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
        finally:
            os._exit(code)

    def wait(self) -> bool:
        """Wait until the helpers have ended by themselves; whether all of them have done what they had taken."""
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in self._pids]
        self._pids.clear()
        self.end()
        return not any(codes)

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
