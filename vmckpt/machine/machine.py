"""The emulated machine: memory, and vCPUs that work in it, under one supervisor.

    Ram ────────┐                       ┌─ start ─▶ running ◀── resume ──┐
    MachineState┴─▶ Machine: at rest ───┤              │ pause           │
                                        │              └───────▶ paused ─┘
                                        └─ stop, or all at their last operation ─▶ state ─▶ checkpoint, or `Machine` again

The supervisor is one thread, and sleeps in `wait`; whoever else has a descriptor to serve there has it watched (the
control socket does). `attach` and `commands` are where a tracer comes in: what they name runs in the vCPUs' processes
(see `processor`; those that a save needs, `tracing`, every machine has). While a save or a restore works on the machine,
it says so in `activity`, and `wait` goes on.

Longer than most modules: all of it keeps one invariant, that a machine that lost a vCPU stops, and says nothing inexact.
"""

import contextlib
import select
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType, TracebackType
from typing import NamedTuple, Self

from vmckpt.errors import UsageError, WorkerError
from vmckpt.kernel.memory import Mapping as MemoryMapping
from vmckpt.machine.link import Message
from vmckpt.machine.mappings import Mappings
from vmckpt.machine.operations import Share, operations_of
from vmckpt.machine.processor import WORDS, Attach, Command, plain
from vmckpt.machine.ram import Ram
from vmckpt.machine.recording import Recording
from vmckpt.machine.state import MachineState
from vmckpt.machine.tracing import Tracing
from vmckpt.machine.translated import FENCE, Translation
from vmckpt.machine.vcpu import Role, Vcpu

__all__ = ["Machine", "MachineStatus"]

_ANSWER_S = 30.0
_NO_COMMANDS: Mapping[str, Command] = MappingProxyType({})


class MachineStatus(NamedTuple):
    """A machine at a moment."""

    state: str
    """`running`, `paused`, `saving`, `restoring`, or `stopped`."""
    memory_bytes: int
    vcpus: int
    ops: int
    """Operations of all vCPUs since boot."""
    ops_per_vcpu: tuple[int, ...]
    workload: str
    seed: int
    resident_pages: int
    """Pages that take memory of the host."""
    large_pages: int = 0
    """Large pages that are mapped as such."""
    small_pages: int = 0
    """Pages that are mapped one by one."""
    shared_pages: int = 0
    """Of these, pages that share their memory with others."""
    freed_pages: int = 0
    """Pages less that memory takes, because of that."""
    unshared_pages: int = 0
    """Pages that were written to while they shared, since boot."""
    small_ops: int = 0
    """Operations of all vCPUs that went by a small mapping, since boot."""


class Machine:
    """A machine; made at rest, and used by one thread. Use it as a context manager: leaving it ends everything.

    Attributes:
        ram: its memory, which it owns.
        mappings: of its memory, large and small.
        activity: None, or what goes on beside running: `saving` or `restoring`.
        while_waiting: called now and then while a vCPU owes an answer; it may not ask vCPUs anything.
    """

    def __init__(
        self,
        ram: Ram,
        state: MachineState,
        *,
        recording: Recording | None = None,
        attach: Attach = plain,
        commands: Mapping[str, Command] = _NO_COMMANDS,
    ) -> None:
        """Put a machine together; no process yet.

        Args:
            ram: taken over.
            state: of boot, or as `state` of another machine gave it.
            recording: what the workload `trace` replays.
            attach: called in each vCPU's process with its mapping, before its first operation.
            commands: what `call` can have vCPUs do, by name, beside pause, resume, stop and `tracing`.

        Raises:
            UsageError: the state is of another recording.
        """
        if (recording.fingerprint if recording else "") != state.recording:
            raise UsageError(
                f"the machine's workload replays a recording with fingerprint {state.recording or 'none'}, and got "
                f"{recording.fingerprint if recording else 'none'}"
            )
        self.ram = ram
        self.activity: str | None = None
        self.while_waiting: Callable[[], object] = lambda: None
        self._boot = state
        self._recording = recording
        self._attach = attach
        self._commands = {**Tracing().commands(), **Translation().commands(), **commands}
        self._vcpus: list[Vcpu] = []
        self._until_ops: int | None = None
        self._paused = True
        self._stopped = False
        self._failure: WorkerError | None = None
        self._poll = select.poll()
        self._watched: dict[int, Callable[[int], None]] = {}
        self.mappings = Mappings(ram, self)

    def start(self, *, until_ops: int | None = None, paused: bool = False) -> None:
        """Fork the vCPUs, and let them run.

        Args:
            until_ops: how many operations each vCPU does, counted since boot; None: no end.
            paused: wait for `resume` instead.

        Raises:
            UsageError: it was started before.
            WorkerError: a vCPU failed.
        """
        if self._vcpus or self._stopped:
            raise UsageError("the machine was started before")
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()  # or a vCPU that fails could write the parent's buffered text once more
        control = MemoryMapping.anonymous(len(self._boot.vcpus) * WORDS * 8, shared=True).view.cast("Q")
        try:
            for index in range(len(self._boot.vcpus)):
                vcpu = Vcpu(self._role(index, control[index * WORDS : (index + 1) * WORDS]))
                vcpu.on_event = partial(self.mappings.heard, index)
                self._vcpus.append(vcpu)
                self.watch(vcpu.fd, select.POLLIN, partial(self._hear, vcpu))
            self._until_ops = until_ops
            if not paused:
                self.resume(until_ops=until_ops)
        except BaseException as error:
            # Killed between any two instructions: what it says of itself now would not be exact.
            if self._failure is None:
                self._failure = WorkerError(f"the machine was stopped while it started: {error}")
            self._kill()
            raise

    def _role(self, index: int, control: memoryview) -> Role:
        boot = self._boot
        share = Share(index, len(boot.vcpus), self.ram.layout.page_count)
        operations = operations_of(boot.workload, share, seed=boot.seed, recording=self._recording)
        return Role(
            self.ram, share, operations, boot.vcpus[index], control, self._attach, self._commands, (FENCE,)
        )

    @property
    def state(self) -> str:
        """`running`, `paused`, `saving`, `restoring`, or `stopped`."""
        if self._stopped:
            return "stopped"
        return self.activity or ("paused" if self.at_rest else "running")

    @property
    def paused(self) -> bool:
        """Whether it waits for `resume`."""
        return self._paused

    @property
    def vcpu_count(self) -> int:
        """How many vCPUs it has."""
        return len(self._boot.vcpus)

    @property
    def has_vcpus(self) -> bool:
        """Whether its vCPUs are there: it was started, and not stopped."""
        return bool(self._vcpus) and not self._stopped

    @property
    def pulses(self) -> list[tuple[int, int] | None]:
        """Of each vCPU something that changes as long as it gets on; None where it has no operations to do now."""
        at_rest = self._paused or self._stopped
        return [None if at_rest or vcpu.reached else vcpu.pulse for vcpu in self._vcpus]

    @property
    def at_rest(self) -> bool:
        """Whether no vCPU runs, so that memory does not change."""
        return self._paused or self._stopped or self.finished

    @property
    def finished(self) -> bool:
        """Whether every vCPU has done its last operation."""
        return bool(self._vcpus) and all(vcpu.reached for vcpu in self._vcpus)

    def call(
        self,
        name: str,
        values: Mapping[str, object],
        descriptors: Sequence[int] = (),
        *,
        vcpu: int | None = None,
    ) -> list[Message]:
        """Have all vCPUs (or one) do something between two operations, all at once; their answers, in order.

        Args:
            name: `pause`, `resume`, `stop`, or one of the machine's commands.
            values: JSON values for it.
            descriptors: each vCPU gets copies.
            vcpu: the only one to ask.

        Raises:
            UsageError: the machine does not run.
            WorkerError: a vCPU has ended; the machine has been stopped, for it cannot go on.
        """
        self._require_started()
        asked = self._vcpus if vcpu is None else [self._vcpus[vcpu]]
        with self._all_or_nothing():
            numbers = [each.post(name, values, descriptors) for each in asked]
            return [self._take(each, number) for each, number in zip(asked, numbers, strict=True)]

    def post(self, name: str) -> Callable[[], bool]:
        """Have all vCPUs do something between two operations, and do not wait; to be asked later: have all done it?

        Raises:
            UsageError: the machine does not run.
            WorkerError: a vCPU has ended; the machine has been stopped, for it cannot go on.
        """
        self._require_started()
        with self._all_or_nothing():
            asked = [(vcpu, vcpu.post(name, {})) for vcpu in self._vcpus]

        def have_all() -> bool:
            asked[:] = [(vcpu, number) for vcpu, number in asked if not vcpu.has_answered(number)]
            return not asked

        return have_all

    def answer(self, vcpu: int, name: str) -> None:
        """Let a vCPU go on that has asked `name` in the midst of an operation."""
        self._vcpus[vcpu].answer(name)

    def _take(self, vcpu: Vcpu, number: int) -> Message:
        return vcpu.take(number, timeout_s=_ANSWER_S, meanwhile=self.while_waiting)

    def pause(self) -> None:
        """Stop every vCPU between two operations. Pausing twice is fine.

        Raises:
            UsageError: the machine does not run.
            WorkerError: a vCPU has ended.
        """
        self.call("pause", {})
        self._paused = True

    def resume(self, *, until_ops: int | None = None) -> None:
        """Let the vCPUs go on.

        Args:
            until_ops: a new end, counted since boot, in each vCPU's operations; None: the end that there was.

        Raises:
            UsageError: the machine does not run.
            WorkerError: a vCPU has ended.
        """
        self._until_ops = self._until_ops if until_ops is None else until_ops
        self.call("resume", {"until_ops": self._until_ops})
        self._paused = False

    def exchange(self, name: str, *, resume: bool) -> None:
        """Have the vCPUs carry out a command and, with `resume`, go on after it: one round trip for both.

        Raises:
            UsageError: the machine does not run.
            WorkerError: a vCPU has ended.
        """
        self.call(name, {"resume": resume})
        self._paused = self._paused and not resume

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until every vCPU has done its last operation and no `activity` is left, or the machine was stopped.

        What is watched is served meanwhile.

        Returns False when `timeout_s` passed before.

        Raises:
            UsageError: the machine does not run; or it is paused, and nothing is watched that could resume it.
            WorkerError: a vCPU has ended; the machine has been stopped.
        """
        if not self._stopped:
            self._require_started()
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not (self._stopped or (self.finished and self.activity is None)):
            if deadline_s is None and self._paused and len(self._watched) == len(self._vcpus):
                raise UsageError("the machine is paused, and nobody is there to resume it")
            left_s = None if deadline_s is None else deadline_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                return False
            self._serve(left_s)
        self._raise_failure()
        return True

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Have `wait` call `callback` with the events (select.POLLIN, ...) that occur on `fd`; again: change that."""
        self._poll.register(fd, events)
        self._watched[fd] = callback

    def unwatch(self, fd: int) -> None:
        """End `watch`; call it before closing `fd`."""
        self._poll.unregister(fd)
        del self._watched[fd]

    def _serve(self, timeout_s: float | None) -> None:
        for fd, events in self._poll.poll(None if timeout_s is None else timeout_s * 1000):
            callback = self._watched.get(fd)  # an earlier one of this round may have ended it
            if callback is not None:
                callback(events)
        if not self._stopped:
            self.mappings.settle_now_and_then()

    def _hear(self, vcpu: Vcpu, events: int) -> None:
        del events
        with self._all_or_nothing():
            if (
                vcpu.has_news()
            ):  # an earlier callback of this round may have asked it something, and heard it out
                vcpu.hear()

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """A machine that lost a vCPU, or can no longer reach one, does not go on."""
        try:
            yield
        except WorkerError as error:
            self._failure = error
            self._kill()
            raise

    def status(self) -> MachineStatus:
        """What it does now."""
        ops = self._ops()
        return MachineStatus(
            state=self.state,
            memory_bytes=self.ram.memory_bytes,
            vcpus=len(ops),
            ops=sum(ops),
            ops_per_vcpu=ops,
            workload=self._boot.workload.text,
            seed=self._boot.seed,
            resident_pages=self.ram.resident_pages,
            **self.mappings.status()._asdict(),
        )

    def _ops(self) -> tuple[int, ...]:
        return tuple(each.ops for each in self._vcpus or self._boot.vcpus)

    def machine_state(self) -> MachineState:
        """All that is needed, beside memory, to go on elsewhere.

        Raises:
            UsageError: it runs.
        """
        self._raise_failure()
        self._require_rest("its state is")
        if not self._vcpus:
            return self._boot
        return self._boot._replace(vcpus=tuple(vcpu.state for vcpu in self._vcpus))

    def digest(self, *, jobs: int | None = None) -> str:
        """The digest of memory, 32 hex digits.

        Raises:
            UsageError: it runs.
        """
        self._raise_failure()
        self._require_rest("the digest of its memory is")
        return self.ram.digest(jobs=jobs).hex()

    def stop(self) -> None:
        """End the vCPUs, each after the operation that it is at. Memory and state stay; stopping twice is fine.

        Raises:
            WorkerError: a vCPU ended before, or did not answer: the state is not exact.
        """
        self._raise_failure()
        if self._stopped:
            return
        if self.mappings.active and self._vcpus:
            self.call("pause", {})  # or one could need others to go on that have ended
        with self._all_or_nothing():
            numbers = [(vcpu, vcpu.post("stop", {})) for vcpu in self._vcpus if vcpu.pid]
            for vcpu, number in numbers:
                self._forget(vcpu)
                self._take(vcpu, number)
                vcpu.join()
        self._stopped = True
        self.mappings.settle()

    def close(self) -> None:
        """End the vCPUs wherever they are, and let go of memory. Closing twice is fine."""
        self._kill()
        self.mappings.close()
        self.ram.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _kill(self) -> None:
        for vcpu in self._vcpus:
            self._forget(vcpu)
            vcpu.kill()
        self._stopped = True

    def _forget(self, vcpu: Vcpu) -> None:
        if vcpu.fd in self._watched:
            self.unwatch(vcpu.fd)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _require_started(self) -> None:
        if not self._vcpus or self._stopped:
            raise UsageError("the machine does not run: it was not started, or has been stopped")

    def _require_rest(self, what: str) -> None:
        if not self.at_rest:
            raise UsageError(f"{what} not to be had while the machine runs: pause it first")
