"""The machine that is being saved, as the saver sees it: what it hands over, and the few things it is asked to do.

    prepare ─▶ memory, userfaultfds ─▶ tracer ─▶ begin | hold ─▶ fence ... ─▶ end          docs/machine.md has the protocol

Wraps a conversation with the machine's supervisor; called by `live`.
"""

import contextlib
import json
import os
import select
import socket
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from vmckpt.errors import IoError, SourceError
from vmckpt.kernel.userfaultfd import Userfaultfd
from vmckpt.layout import Layout
from vmckpt.machine.client import Conversation
from vmckpt.machine.mapped import LentMemory
from vmckpt.machine.state import MOST_VCPUS, MachineState
from vmckpt.pages import PageRange
from vmckpt.sources.memory import memory_source
from vmckpt.sources.segments import SegmentSource
from vmckpt.trace.rules import Needs
from vmckpt.trace.software import SoftwareTracer, TraceTable, traces_of
from vmckpt.trace.tracer import Tracer
from vmckpt.trace.userfault import UserfaultTracer

__all__ = ["NO_TRACES", "Guest", "Moment", "held_memory", "running_memory"]

NO_TRACES = Needs(first_touch=False, writes=False, protect=False)
"""What is asked of a machine that is to stand still."""


class Moment(NamedTuple):
    """The machine when all its vCPUs stood still."""

    state: MachineState
    pause_s: float
    """How long they did; 0 while they still do."""
    ops_per_s_before: float
    """Operations of all vCPUs in a second, before the save."""
    ops_per_s_during: float
    """The same since traces were placed; 0 where they are only being placed."""


class Guest:
    """A machine whose save has begun. Leaving the context lets go of all that it handed over; it goes on.

    Attributes:
        layout: of its memory.
        memory_fd: where page p lies at p * 4096, unless it shares; then `memory` knows.
        mechanism: `userfaultfd`, `software`, or `none`.
        vcpus: how many it has.
    """

    def __init__(self, conversation: Conversation, needs: Needs, mechanism: str) -> None:
        """Have it prepare.

        Raises:
            UsageError: it is being saved already.
            FeatureError: this mechanism cannot be had.
            IoError: it has ended.
            SourceError: it answers what no machine does.
        """
        self._conversation = conversation
        self._poll = select.poll()
        self._poll.register(conversation.fileno(), select.POLLIN)
        asked = {"mechanism": mechanism, "first_touch": needs.first_touch, "writes": needs.writes}
        answer = conversation.ask("trace-prepare", asked)
        self._descriptors = list(answer.descriptors)
        self._needs = needs
        self._table: TraceTable | None = None
        self.memory_fd = self._page_table_fd = -1
        try:
            with _understood():
                self._take(answer.values)
        except BaseException:
            self.close()
            raise

    def _take(self, values: Mapping[str, object]) -> None:
        self.mechanism = str(values["mechanism"])
        self.layout = Layout([(_number(gpa), _number(size)) for gpa, size in _pairs(values["regions"])])
        self._bases = [_number(base) for base in _list(values["bases"])]
        self.vcpus = _number(values["vcpus"])
        self.memory_fd = self._descriptors.pop(0)
        if values.get("page_table"):
            self._page_table_fd = self._descriptors.pop(0)
        expected = {"userfaultfd": (self.vcpus, self.vcpus), "software": (0, self.vcpus + 1), "none": (0, 0)}
        handed = len(self._bases), len(self._descriptors)
        if not 1 <= self.vcpus <= MOST_VCPUS or handed != expected[self.mechanism]:
            raise ValueError(f"{self.vcpus} vCPUs, {handed[0]} addresses, {handed[1]} descriptors")

    def memory(self, name: str = "memory of the machine") -> SegmentSource:
        """Its memory as it is at the moment of reading; `name` is what to call it."""
        fd = os.dup(self.memory_fd)
        try:
            if self._page_table_fd >= 0:
                return LentMemory.over(fd, self.layout, self._page_table_fd, self.vcpus, name)
            return memory_source(fd, self.layout, name)
        except BaseException:
            os.close(fd)
            raise

    def tracer(self) -> Tracer:
        """Who traps its touches; takes over the descriptors that it handed over for that."""
        page_count = self.layout.page_count
        if self.mechanism == "userfaultfd":
            descriptors, self._descriptors = self._descriptors, []
            faults = [Userfaultfd(fd) for fd in descriptors]
            return UserfaultTracer(faults, self._bases, page_count, memory_fd=self.memory_fd)
        with _understood():
            self._table = TraceTable(self._descriptors[0], page_count, self.vcpus)
        self._table.fill(traces_of(self._needs))
        return SoftwareTracer(self._table, self._sockets())

    def _sockets(self) -> list[socket.socket]:
        """Of the vCPUs; with what else was handed over, they are not closed here any more."""
        sockets: list[socket.socket] = []
        try:
            with _understood():
                for fd in self._descriptors[1:]:
                    sockets.append(socket.socket(fileno=fd))  # noqa: PERF401 what came before a wrong one is closed
        except BaseException:
            for each in sockets:
                each.detach()  # `close` closes it
            raise
        os.close(self._descriptors[0])
        self._descriptors = []
        return sockets

    def begin(self) -> Moment:
        """The instant: all vCPUs stand still, change over to traced memory, and go on.

        Raises:
            IoError: it has ended.
        """
        return self._moment("trace-begin")

    def hold(self) -> Moment:
        """Have all vCPUs stand still, until `end`.

        Raises:
            IoError: it has ended.
        """
        return self._moment("trace-hold")

    def _moment(self, do: str) -> Moment:
        values = self._conversation.ask(do).values
        with _understood():
            state = MachineState.from_json(
                json.dumps(values["machine"]).encode(), page_count=self.layout.page_count
            )
            rates = _real(values["ops_per_s_before"]), _real(values.get("ops_per_s_during", 0.0))
            return Moment(state, _real(values.get("pause_s", 0.0)), *rates)

    def fence(self) -> None:
        """Return when no vCPU is still within an operation that began before: traces set since then hold for it.

        The kernel does that by itself.
        """
        if self.mechanism == "software":
            self._conversation.ask("trace-fence")

    def forget(self, ranges: Sequence[PageRange]) -> None:
        """Have the first touch of these pages trap again."""
        if self.mechanism == "userfaultfd":
            self._conversation.ask("trace-forget", {"ranges": [list(pages) for pages in ranges]})

    def confirm(self) -> None:
        """Tell its supervisor that this save goes on; a held machine is let go when nothing is heard for long.

        Raises:
            IoError: it has ended.
            WorkerError: the supervisor has given this save up.
        """
        self._conversation.ask("trace-confirm")

    def end(self, *, stop: bool) -> float:
        """End the save; with `stop`, end the machine as well. Operations in a second during the save.

        Raises:
            IoError: it has ended.
            WorkerError: the supervisor has given this save up before.
        """
        values = self._conversation.ask("trace-end", {"stop": stop}).values
        with _understood():
            return _real(values["ops_per_s_during"])

    def check(self) -> None:
        """Raise IoError if the machine has ended."""
        self.wait(0.0)

    def wait(self, seconds: float) -> None:
        """Let the machine work for so long; raise IoError when it has ended."""
        if self._poll.poll(seconds * 1000):
            raise IoError("the machine ended while it was being saved")

    def close(self) -> None:
        """Close what it handed over; closing twice is fine."""
        for fd in filter(lambda fd: fd >= 0, [*self._descriptors, self.memory_fd, self._page_table_fd]):
            os.close(fd)
        self._descriptors, self.memory_fd, self._page_table_fd = [], -1, -1
        if self._table is not None:
            self._table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextlib.contextmanager
def held_memory(conversation: Conversation) -> Iterator[SegmentSource]:
    """The memory of a machine that stands still until the context is left."""
    with Guest(conversation, NO_TRACES, "auto") as guest, guest.memory() as memory:
        guest.hold()
        yield memory
        guest.end(stop=False)


@contextlib.contextmanager
def running_memory(conversation: Conversation, name: str) -> Iterator[SegmentSource]:
    """The memory of a machine that goes on: each page is what it holds when it is read."""
    with Guest(conversation, NO_TRACES, "auto") as guest, guest.memory(name) as memory:
        yield memory
        guest.end(stop=False)


@contextlib.contextmanager
def _understood() -> Iterator[None]:
    """What is not there, or is something else, is no answer of a machine."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, OSError) as error:
        raise SourceError(f"what listens there does not answer as a machine does: {error}") from error


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, found {value!r:.40}")
    return value


def _pairs(value: object) -> list[tuple[object, object]]:
    return [(first, second) for first, second in map(_list, _list(value))]


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"expected a number, found {value!r:.40}")
    return value


def _real(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"expected a number, found {value!r:.40}")
    return float(value)
