"""Reads that take as long as a disk's model says, in however many processes: a store that waits, and its clock.

    read ─▶ ask the clock (a file, locked for some microseconds) ─▶ the real read ─▶ wait for what is left of the time

The clock's state lies in a file, which each process opens for itself at its first read: so it needs no descriptor that
a fork would have to hand on, and the handler, its helpers and the supervisor queue at one disk. When the part of a
restore that is measured is over, `release` lets all further reads go at once. Used by `restored` and `peer`.
"""

import os
import struct
import time
from typing import Self

from vmckpt.bench.disk import Disk, Queue, served
from vmckpt.errors import IoError
from vmckpt.restoring.store import Store

__all__ = ["Clock", "PacedStore", "wait_until"]

_STATE = struct.Struct("=dq?7x")  # free at, head (-1: nobody knows), in force
_SPIN_S = 150e-6  # the last bit is not slept: a sleep ends up to so much too late


class Clock:
    """One disk's time, for all processes that have this object or a fork of it.

    Attributes:
        disk: whose time it is.
    """

    def __init__(self, disk: Disk, path: str) -> None:
        """Keep the state in a new file at `path`, which stays until somebody removes it."""
        self.disk = disk
        self._path = path
        self._pid = self._fd = -1
        try:
            with open(path, "xb") as file:
                file.write(_STATE.pack(0.0, -1, not disk.is_real))
        except OSError as error:
            raise IoError.of(error, "cannot write", path=path) from error

    def begin(self, offset: int, size_bytes: int) -> float:
        """Queue a read; when it will be done, on the scale of `time.monotonic`."""
        if self.disk.is_real:
            return 0.0
        fd = self._descriptor()
        os.lockf(fd, os.F_LOCK, 0)  # guards the file's bytes; a process that dies lets go of it
        try:
            free_at_s, head, in_force = _STATE.unpack(os.pread(fd, _STATE.size, 0))
            if not in_force:
                return 0.0
            queue = Queue(free_at_s, None if head < 0 else head)
            queue = served(self.disk, queue, time.monotonic(), offset, size_bytes)
            os.pwrite(fd, _STATE.pack(queue.free_at_s, queue.head, True), 0)
        finally:
            os.lockf(fd, os.F_ULOCK, 0)
        return queue.free_at_s

    def _descriptor(self) -> int:
        if self._pid != os.getpid():  # what a fork inherited may have been closed there
            self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            self._pid = os.getpid()
        return self._fd

    def release(self) -> None:
        """From now on reads cost what they cost."""
        fd = self._descriptor()
        os.lockf(fd, os.F_LOCK, 0)
        try:
            os.pwrite(fd, _STATE.pack(0.0, -1, False), 0)
        finally:
            os.lockf(fd, os.F_ULOCK, 0)

    def close(self) -> None:
        """Let go of the file in this process; closing twice is fine."""
        if self._pid == os.getpid():
            os.close(self._fd)
            self._pid = self._fd = -1


def wait_until(moment_s: float) -> None:
    """Return at that moment, on the scale of `time.monotonic`, within some microseconds; at once if it is past."""
    left_s = moment_s - time.monotonic()
    if left_s > _SPIN_S:
        time.sleep(left_s - _SPIN_S)
    while time.monotonic() < moment_s:
        pass


class PacedStore(Store):
    """An open checkpoint that is read no faster than its disk allows."""

    def __init__(self, fd: int, name: str, clock: Clock) -> None:
        """As `Store`."""
        self._clock = clock
        super().__init__(fd, name)
        self.peeks = clock.disk.is_real  # a simulated disk knows nothing of what the kernel has in memory

    @classmethod
    def on(cls, path: str, clock: Clock) -> Self:
        """Open the file at `path`; raises what `Store.open` does."""
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise IoError.of(error, "cannot open the checkpoint", path=path) from error
        try:
            return cls(fd, path, clock)
        except BaseException:
            os.close(fd)
            raise

    def _read_at(self, offset: int, size_bytes: int) -> bytes:
        done_s = self._clock.begin(offset, size_bytes)
        data = super()._read_at(offset, size_bytes)
        wait_until(done_s)
        return data

    def read_into(self, into: memoryview, offset: int) -> None:
        """As in `CheckpointFile`, in the disk's time."""
        done_s = self._clock.begin(offset, len(into))
        super().read_into(into, offset)
        wait_until(done_s)
