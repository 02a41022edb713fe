"""Traces on a machine as its supervisor holds them: prepared on all vCPUs, given away, and lifted whatever happened.

    prepare(machine, wanted) ─▶ Traces: what the saver needs ─▶ (entered by the vCPUs) ─▶ lift

By the kernel: one userfaultfd for each vCPU. By software: a table, and a socket for each vCPU. The saver's tracer answers
traps; the supervisor keeps just enough to lift all traces without it, be it dead, stopped or out of its mind: `lift` asks
nothing of any other process and does not wait. Called by `saves`; the vCPUs' side is `tracing`.
"""

import contextlib
import os
import socket
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import vmckpt.errors
from vmckpt.errors import FeatureError, IoError, VmckptError
from vmckpt.kernel.features import probe
from vmckpt.kernel.userfaultfd import Userfaultfd
from vmckpt.machine.link import Message
from vmckpt.machine.machine import Machine
from vmckpt.machine.tracing import features_of
from vmckpt.trace.software import create_table

__all__ = ["MECHANISMS", "Traces", "Wanted", "prepare"]

MECHANISMS = ("auto", "userfaultfd", "software")


class Wanted(NamedTuple):
    """What a saver asks for."""

    mechanism: str
    """One of MECHANISMS."""
    first_touch: bool
    """Trap the first touch of every page."""
    writes: bool
    """Be able to trap writes."""


class Traces(Protocol):
    """Traces that were prepared.

    Attributes:
        mechanism: `userfaultfd`, `software` or `none`.
        bases: where each vCPU's traced mapping begins, in its process.
    """

    mechanism: str
    bases: Sequence[int]

    def give(self) -> list[int]:
        """Descriptors for the saver, who owns them then; to be called once."""

    def lift(self) -> None:
        """Have nothing trap any more, and all who wait go on. Again: nothing."""


def prepare(machine: Machine, wanted: Wanted) -> Traces:
    """Prepare traces while the machine goes on.

    Raises:
        FeatureError: this mechanism cannot be had.
        IoError: there is no room for a second mapping, or no memory for the table.
        UsageError: the machine does not run.
        WorkerError: a vCPU has ended.
    """
    if not (wanted.first_touch or wanted.writes):
        return _NoTraces()
    if wanted.mechanism == "software":
        return _SoftwareTraces(machine)
    needed = features_of(first_touch=wanted.first_touch, writes=wanted.writes)
    try:
        probe().require(needed)
        return _KernelTraces(machine, wanted)
    except FeatureError:
        if wanted.mechanism != "auto":
            raise
        return _SoftwareTraces(machine)


class _NoTraces:
    mechanism = "none"
    bases: Sequence[int] = ()

    def give(self) -> list[int]:
        return []

    def lift(self) -> None:
        pass


class _KernelTraces:
    """Keeps a copy of each userfaultfd. So while this process lives, the tracer's end lifts nothing: `saves` does."""

    mechanism = "userfaultfd"

    def __init__(self, machine: Machine, wanted: Wanted) -> None:
        self._size_bytes = machine.ram.memory_bytes
        self._uffds: list[Userfaultfd] = []
        self.bases: Sequence[int] = ()
        asked = {"first_touch": wanted.first_touch, "writes": wanted.writes}
        answers = machine.call("trace-prepare", asked, [machine.ram.fd])
        self._uffds = [Userfaultfd(fd) for answer in answers for fd in answer.descriptors]
        try:
            self.bases = [_number(_sound(answer)["base"]) for answer in answers]
        except VmckptError:
            self.lift()
            _leave(machine)
            raise

    def give(self) -> list[int]:
        return [os.dup(uffd.fileno()) for uffd in self._uffds]

    def lift(self) -> None:
        for uffd, base in zip(self._uffds, self.bases, strict=False):
            with contextlib.suppress(VmckptError):  # the vCPU has ended
                uffd.unregister(base, self._size_bytes)
                uffd.wake(base, self._size_bytes)  # unregister wakes only who waits for missing pages
        for uffd in self._uffds:
            uffd.close()
        self._uffds = []


class _SoftwareTraces:
    """Keeps a copy of each vCPU's own end of its socket, to end the stream with: the tracer's end still shows on it."""

    mechanism = "software"
    bases: Sequence[int] = ()

    def __init__(self, machine: Machine) -> None:
        self._ends: list[socket.socket] = []
        self._given = [create_table(machine.ram.layout.page_count, machine.vcpu_count)]
        try:
            for vcpu in range(machine.vcpu_count):
                self._join(machine, vcpu)
        except VmckptError:
            self.lift()
            _leave(machine)
            raise

    def _join(self, machine: Machine, vcpu: int) -> None:
        try:
            end, given = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise IoError.of(error, "cannot join vCPUs and tracer") from error
        self._ends.append(end)
        self._given.append(given.detach())
        [answer] = machine.call("trace-prepare-software", {}, [self._given[0], end.fileno()], vcpu=vcpu)
        _sound(answer)

    def give(self) -> list[int]:
        given, self._given = self._given, []
        return given

    def lift(self) -> None:
        for end in self._ends:
            with contextlib.suppress(OSError):  # the tracer's end is closed already
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for fd in self.give():
            os.close(fd)
        self._ends = []


def _leave(machine: Machine) -> None:
    """Some vCPUs may have prepared before one could not."""
    with contextlib.suppress(VmckptError):  # what went wrong first is what is raised
        machine.call("trace-leave", {})


def _sound(answer: Message) -> Mapping[str, object]:
    """What the vCPU answered, or the error it met."""
    error = answer.values.get("error")
    if isinstance(error, list):
        kind, text = error
        error_class: type[VmckptError] = getattr(vmckpt.errors, kind)
        raise error_class(text)
    return answer.values


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value
