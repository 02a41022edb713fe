"""A vCPU in its own process: operations by the slice, and an ear for the supervisor between two slices.

    ┌──▶ slice of operations ──▶ attention word set? ── no ──┐
    │                                │ yes                   │
    │         paused, or at its last operation? ◀── obey ◀───│──┐
    │                │ no                 │ yes              │  │
    └────────────────┴────────────────────│──────────────────┘  │
                                          └─▶ sleep until a message comes

The attention word is in memory shared with the supervisor, for looking at it costs nothing; messages come by the link.
A slice takes some tens of microseconds, so a vCPU stops soon, between two operations, and knows exactly between which.
"""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from vmckpt.errors import WorkerError
from vmckpt.kernel.memory import Mapping as MemoryMapping
from vmckpt.machine.access import Access, PlainAccess
from vmckpt.machine.link import Link, Message
from vmckpt.machine.operations import BATCH_OPS, Batch, Operations, Share
from vmckpt.machine.state import VcpuState

__all__ = ["ATTENTION", "LIVE_OPS", "WORDS", "Attach", "Command", "Place", "Processor", "plain"]

SLICE_OPS = 256

WORDS = 16
"""64-bit words that supervisor and vCPU share, in two cache lines: one that each writes."""
ATTENTION = 0
"""Not 0: the supervisor has sent a message."""
LIVE_OPS = 8
"""Operations since boot, after the last slice."""


class Place(NamedTuple):
    """Where a vCPU works, as its own process sees it."""

    share: Share
    memory: MemoryMapping
    """This process's own mapping of guest memory."""
    words: memoryview
    """The same as 64-bit words."""


Attach = Callable[[Place], Access]
"""Called in the vCPU's process before its first operation: the moment to register its mapping for tracing."""


class Command(Protocol):
    """What a request of the supervisor does in the vCPU's process, between two operations."""

    def __call__(
        self, processor: "Processor", values: Mapping[str, object], descriptors: Sequence[int]
    ) -> tuple[Mapping[str, object], Sequence[int]]:
        """Act, and return what to answer: values and descriptors, which are closed once they are sent."""


def plain(place: Place) -> Access:
    """Attach nothing: accesses go straight to memory."""
    return PlainAccess(place.words, place.share)


class Processor:
    """The vCPU.

    Attributes:
        place: its memory.
        access: how it touches it; a command may put another one here.
        ops: operations since boot.
        register: what it remembers of its reads.
    """

    def __init__(
        self,
        place: Place,
        operations: Operations,
        state: VcpuState,
        *,
        access: Access,
        control: memoryview,
        link: Link,
        commands: Mapping[str, Command],
        amid: Collection[str] = (),
    ) -> None:
        """Put it together.

        Args:
            place: its memory.
            operations: what it does.
            state: where it starts.
            access: how it touches memory.
            control: WORDS words shared with the supervisor.
            link: to the supervisor.
            commands: on top of pause, resume and stop.
            amid: names of those that are carried out while it waits in the midst of an operation, too (`ask`).
        """
        self.place = place
        self.access = access
        self.ops, self.register = state
        self._operations = operations
        self._control = control
        self._link = link
        self._amid = amid
        self._later: deque[Message] = deque()  # came while it was in the midst of an operation
        self._commands = {"pause": _pause, "resume": _resume, "stop": _stop, **commands}
        self.paused = True
        self.until_ops: int | None = None
        self.ended = False
        self._told_ops = -1  # where it last told that it had reached its last operation
        self._batch_number = -1
        self._batch = Batch((), 0, ())

    def run(self) -> None:
        """Live until told to stop, or until the supervisor is gone."""
        while not self.ended:
            if self.paused or self._at_last():
                self._obey(self._receive())
            elif self._control[ATTENTION]:
                self._control[ATTENTION] = 0  # before the link is read: what is sent later sets it again
                while (self._later or self._link.wait(0)) and self._obey(self._receive()):
                    pass
            else:
                self._step()

    def ask(self, name: str, values: Mapping[str, object]) -> None:
        """Ask the supervisor something in the midst of an operation, and wait for the answer, which has the same name.

        Raises:
            WorkerError: the supervisor is gone.
        """
        self._link.send(Message(name, 0, {**self.values(), **values}))
        while True:
            message = self._link.receive()
            if message is None:
                raise WorkerError("the machine's supervisor has ended")
            if message.name == name:
                return
            if message.name in self._amid:
                self._obey(message)
            else:
                self._later.append(message)
                self._control[ATTENTION] = 1

    def _receive(self) -> Message | None:
        return self._later.popleft() if self._later else self._link.receive()

    def values(self) -> dict[str, object]:
        """What every answer says."""
        return {"ops": self.ops, "register": self.register}

    def _at_last(self) -> bool:
        if self.until_ops is None or self.ops < self.until_ops:
            return False
        if self._told_ops != self.ops:
            self._told_ops = self.ops
            self._link.send(Message("reached", 0, self.values()))
        return True

    def _obey(self, message: Message | None) -> bool:
        """Whether there is life after this message."""
        if message is None:
            self.ended = True
            return False
        values, descriptors = self._commands[message.name](self, message.values, message.descriptors)
        try:
            self._link.send(Message(message.name, message.number, {**self.values(), **values}, descriptors))
        finally:
            _close(descriptors)
        return not self.ended

    def _step(self) -> None:
        """One slice: never past a batch, nor past the last operation."""
        number, start = divmod(self.ops, BATCH_OPS)
        if number != self._batch_number:
            self._batch, self._batch_number = self._operations.batch(number), number
        end = min(start + SLICE_OPS, BATCH_OPS)
        if self.until_ops is not None:
            end = min(end, start + self.until_ops - self.ops)
        draws, threshold, words = self._batch
        if words:
            self.register = self.access.straight(words[start:end], draws[start:end], threshold, self.register)
        else:
            self.register = self.access.chase(draws[start:end], threshold, self.register)
        self.ops += end - start
        self._control[LIVE_OPS] = self.ops


def _pause(
    processor: Processor, values: Mapping[str, object], descriptors: Sequence[int]
) -> tuple[Mapping[str, object], Sequence[int]]:
    del values, descriptors
    processor.paused = True
    return {}, ()


def _resume(
    processor: Processor, values: Mapping[str, object], descriptors: Sequence[int]
) -> tuple[Mapping[str, object], Sequence[int]]:
    del descriptors
    until_ops = values["until_ops"]
    assert until_ops is None or isinstance(until_ops, int)
    processor.until_ops = until_ops
    processor.paused = False
    processor._told_ops = -1  # noqa: SLF001 its own command: reached again means told again
    return {}, ()


def _stop(
    processor: Processor, values: Mapping[str, object], descriptors: Sequence[int]
) -> tuple[Mapping[str, object], Sequence[int]]:
    del values, descriptors
    processor.ended = True
    return {}, ()


def _close(descriptors: Sequence[int]) -> None:
    for fd in descriptors:
        with contextlib.suppress(OSError):
            os.close(fd)
