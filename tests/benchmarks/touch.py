"""A guest that touches its memory block by block and tells how long each touch took: one vCPU, without a machine.

    bench  ── "trap" ─▶ guest       maps the memfd once more, registers that, hands the userfaultfd over
           ── blocks ─▶             reads one word of each, in that order, a clock around every read
           ◀── durations ──

A process of its own, as every guest is (`kernel.userfaultfd` says why). Its mapping is fresh for every handler, as it
is for a save of a running machine: nothing is mapped, and every first touch traps. Used by `traps`.
"""

import faulthandler
import os
import pickle
import signal
import socket
import time
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, NoReturn, Self

from tests.benchmarks.measure import CommandError
from vmckpt.kernel.memory import Mapping, create_memfd
from vmckpt.kernel.process import die_with_parent, receive_descriptors, send_descriptors
from vmckpt.kernel.uffdio import Feature, Mode
from vmckpt.kernel.userfaultfd import Userfaultfd
from vmckpt.layout import PAGE_BYTES

__all__ = ["FIRST_TOUCHES", "Toucher", "Touches", "word_at"]

FIRST_TOUCHES = Feature.MISSING_SHMEM | Feature.MINOR_SHMEM
"""What is asked of userfaultfd."""
_TRAPS = Mode.MISSING | Mode.MINOR
_ANSWER_S = 30.0
_ANSWER_BYTES = 1 << 17
_WORDS_PER_PAGE = PAGE_BYTES // 8
_STRIDE = 0x9E3779B97F4A7C15  # odd, so every word differs from the others
_MASK = (1 << 64) - 1


class Touches(NamedTuple):
    """What the guest found, one number for each block, in the order touched."""

    duration_ns: list[int]
    """From before the read to after it."""
    words: list[int]
    """What it read."""


def word_at(number: int) -> int:
    """The content of the memory's word `number`, where `Toucher` has filled it in: the first of each page."""
    return (number + 1) * _STRIDE & _MASK


class Toucher:
    """The guest and its memory; leaving the context ends it.

    Attributes:
        memory_fd: a memfd without holes.
        size_bytes: its length.
    """

    def __init__(self, size_bytes: int, core: int) -> None:
        """Make the memory and fork the guest, which runs on that core."""
        self.size_bytes = size_bytes
        self.memory_fd = create_memfd("touched", size_bytes)
        _fill(self.memory_fd, size_bytes)
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent_pid = os.getpid()
        self._child = os.fork()
        if self._child == 0:
            self._connection.close()
            _live(theirs, self.memory_fd, size_bytes, parent_pid)
        theirs.close()
        os.sched_setaffinity(self._child, {core})
        self._connection.settimeout(_ANSWER_S)

    def trap(self) -> tuple[int, Userfaultfd]:
        """Have every first touch trap from now on: where the memory begins, and the only copy of the descriptor.

        The guest gives up the mapping it had before, so nobody may be waiting there.
        """
        self._connection.send(pickle.dumps(None))
        message, (fd,) = receive_descriptors(self._connection, 64, 1)
        return int(message), Userfaultfd(fd)

    def touch(self, words: list[int]) -> Touches:
        """Have it read these words of the memory, one after the other.

        Raises:
            CommandError: it has ended, or waits for a handler that does nothing.
        """
        with suppress(BrokenPipeError):
            self._connection.send(pickle.dumps(words))
        try:
            answer = self._connection.recv(_ANSWER_BYTES)
        except TimeoutError as error:
            raise CommandError("a touch of the guest's was not answered") from error
        if not answer:
            raise CommandError("the guest that touches memory has ended")
        return Touches(*pickle.loads(answer))

    def close(self) -> None:
        """End it. Closing twice is fine."""
        if self._child:
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            self._child = 0
            self._connection.close()
            os.close(self.memory_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _fill(fd: int, size_bytes: int) -> None:
    # No holes, and a word in each page that tells it from the others.
    with Mapping.of_file(fd, size_bytes) as mapping:
        mapping.populate(write=True)
        with mapping.view as view, view.cast("Q") as words:
            for number in range(0, len(words), _WORDS_PER_PAGE):
                words[number] = word_at(number)


def _live(connection: socket.socket, fd: int, size_bytes: int, parent_pid: int) -> NoReturn:
    try:
        die_with_parent(parent_pid)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what it means
        faulthandler.disable()
        mapping = Mapping.of_file(fd, size_bytes)
        while request := connection.recv(_ANSWER_BYTES):
            words = pickle.loads(request)
            if words is None:
                mapping.close()
                mapping = Mapping.of_file(fd, size_bytes)
                _hand_over(connection, mapping)
            else:
                connection.send(pickle.dumps(tuple(_touch(mapping, words))))
    finally:
        os._exit(0)


def _hand_over(connection: socket.socket, mapping: Mapping) -> None:
    with Userfaultfd.open(FIRST_TOUCHES) as faults:
        faults.register(mapping.address, mapping.size_bytes, _TRAPS)
        send_descriptors(connection, str(mapping.address).encode(), [faults.fileno()])


def _touch(mapping: Mapping, words: list[int]) -> Touches:
    clock = time.perf_counter_ns
    duration_ns, found = [0] * len(words), [0] * len(words)
    with mapping.view as view, view.cast("Q") as memory:
        for turn, word in enumerate(words):
            start_ns = clock()
            value = memory[word]
            duration_ns[turn] = clock() - start_ns
            found[turn] = value
    return Touches(duration_ns, found)
