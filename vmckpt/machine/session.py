"""One life of a machine: from an image or a checkpoint to its report, with a control socket beside it.

    open_source ─▶ memory and state ─▶ Machine, Saves, ControlServer ─▶ start, serve ─▶ finish: RunReport

Called by the command `run`, and by `boot` in a process of its own.
"""

import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

from vmckpt.checkpoint.format import SectionType
from vmckpt.checkpoint.reader import Checkpoint
from vmckpt.errors import FormatError, UsageError
from vmckpt.machine.breakups import BreakUps
from vmckpt.machine.control import ControlServer
from vmckpt.machine.machine import Machine, MachineStatus
from vmckpt.machine.ram import Ram
from vmckpt.machine.recording import Recording, read_recording
from vmckpt.machine.saves import Saves
from vmckpt.machine.state import MachineState
from vmckpt.machine.workload import DEFAULT_WORKLOAD, parse_workload
from vmckpt.pages import Source
from vmckpt.sources import open_source

__all__ = ["RunReport", "Session", "Wishes", "state_of"]

_TICK_S = 0.25
_WARM_S = 0.003


class Wishes(NamedTuple):
    """What to run, as far as somebody said; None: as the checkpoint says, or the default."""

    workload: str | None = None
    """As `parse_workload` takes it."""
    vcpus: int | None = None
    seed: int | None = None


class RunReport(NamedTuple):
    """What a machine did."""

    ops: int
    """Operations of all vCPUs since boot."""
    ops_per_vcpu: tuple[int, ...]
    digest: str
    """Of memory at the end: 32 hex digits."""
    elapsed_s: float
    """From the start of the vCPUs to their end."""
    ops_per_s: float
    """Operations of all vCPUs in this run, for each second of it."""
    memory_bytes: int
    resident_pages: int
    vcpus: int
    workload: str
    seed: int
    ended_by: str
    """`until-ops`, `socket`, or `signal`: none of those two."""


def state_of(source: Source, wishes: Wishes) -> tuple[MachineState, Recording | None]:
    """Where a machine with this memory starts: where a checkpoint left it, or at boot.

    Raises:
        UsageError: the wishes contradict the checkpoint, or make no sense.
        FormatError: its vCPU state is not that of an emulated machine.
        IoError, SourceError: a recording cannot be read.
    """
    body = source.section(SectionType.VCPU_STATE) if isinstance(source, Checkpoint) else None
    page_count = source.layout.page_count
    if body is None:
        workload = parse_workload(wishes.workload or DEFAULT_WORKLOAD)
        recording = read_recording(workload.path) if workload.path else None
        state = MachineState.boot(
            workload,
            recording=recording.fingerprint if recording else "",
            vcpus=1 if wishes.vcpus is None else wishes.vcpus,
            seed=wishes.seed or 0,
            page_count=page_count,
        )
        return state, recording
    try:
        state = MachineState.from_json(body, page_count=page_count)
    except FormatError as error:
        error.path = source.name
        raise
    return _resumed(state, wishes, source.name)


def _resumed(state: MachineState, wishes: Wishes, name: str) -> tuple[MachineState, Recording | None]:
    workload = state.workload if wishes.workload is None else parse_workload(wishes.workload)
    moved = workload.path and state.workload.path  # the same recording, perhaps, in another place
    told = {"workload": (workload.text, state.workload.text if not moved else workload.text)}
    told["vcpus"] = (str(wishes.vcpus), str(len(state.vcpus)))
    told["seed"] = (str(wishes.seed), str(state.seed))
    for what, (wished, found) in told.items():
        if wished not in {found, "None"}:
            raise UsageError(
                f"the checkpoint's machine goes on with {what} {found}, not {wished}: leave --{what} out",
                path=name,
            )
    recording = read_recording(workload.path) if workload.path else None
    if (recording.fingerprint if recording else "") != state.recording:
        raise UsageError(
            f"the checkpoint's machine replays another recording than this: expected one with fingerprint "
            f"{state.recording}, found {recording.fingerprint if recording else 'none'}",
            path=workload.path,
        )
    return state._replace(workload=workload), recording


class Session:
    """A machine that is started, run, and finished. Use it as a context manager: leaving it ends everything.

    Attributes:
        machine: started by `start`.
        control: where it is controlled.
    """

    def __init__(self, machine: Machine, control: ControlServer) -> None:
        """Take both over."""
        self.machine = machine
        self.control = control
        self._saves = Saves(machine)
        control.serve(machine, {**self._saves.handlers(), **BreakUps(machine).handlers()})
        self._boot_ops = machine.status().ops_per_vcpu
        self._started_s = time.monotonic()
        self._ended_by = "signal"

    @classmethod
    def open(
        cls,
        path: str,
        wishes: Wishes = Wishes(),  # noqa: B008 immutable
        *,
        socket_path: str | None = None,
        populate: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Self:
        """Load a machine, at rest.

        Args:
            path: an image, an ELF core or a checkpoint.
            wishes: what to run.
            socket_path: where to listen, if anywhere.
            populate: have zero pages take memory too, as they do behind a host's large pages.
            progress: told (done bytes, total bytes) as memory is loaded.

        Raises:
            UsageError: as `state_of`.
            SourceError: the source holds no memory that vmckpt reads.
            IoError: something cannot be read, there is no memory, or somebody else listens at the socket.
            CorruptionError: the checkpoint is damaged.
        """
        with open_source(path) as source:
            state, recording = state_of(source, wishes)
            control = ControlServer(socket_path)
            try:
                ram = Ram.load(source, progress=progress)
                if populate:
                    ram.populate()
                machine = Machine(ram, state, recording=recording)
            except BaseException:
                control.close()
                raise
        return cls(machine, control)

    @property
    def done_ops(self) -> list[int]:
        """Operations of each vCPU in this session."""
        now = self.machine.status().ops_per_vcpu
        return [ops - before for ops, before in zip(now, self._boot_ops, strict=True)]

    def start(self, *, until_ops: int | None = None) -> None:
        """Have the machine work from now on; `serve` has to be called soon.

        Args:
            until_ops: operations of each vCPU since boot; None: no end.

        Raises:
            WorkerError: a vCPU ended.
        """
        self._started_s = time.monotonic()
        self.machine.start(until_ops=until_ops)
        self._saves.tick()

    def warm_up(self, ops: int) -> None:
        """Return when each vCPU has done `ops` operations in this session; `start` comes first.

        Raises:
            WorkerError: a vCPU ended.
        """
        while min(self.done_ops) < ops:
            self.machine.wait(_WARM_S)
            self._saves.tick()

    def run(
        self, *, until_ops: int | None = None, on_tick: Callable[[MachineStatus], None] | None = None
    ) -> None:
        """`start`, then `serve`."""
        self.start(until_ops=until_ops)
        self.serve(on_tick)

    def serve(self, on_tick: Callable[[MachineStatus], None] | None = None) -> None:
        """Let the machine work until it is done, and saved if that is under way, or until it is stopped by its socket.

        Args:
            on_tick: told a few times a second what the machine does.

        Raises:
            WorkerError: a vCPU ended.
        """
        while not self.machine.wait(_TICK_S):
            self.control.expire()
            self._saves.tick()
            if on_tick is not None:
                on_tick(self.machine.status())
        self._ended_by = "until-ops" if self.machine.finished else "socket"

    def finish(self) -> RunReport:
        """Stop the machine, wherever it is, and say what came of it; the socket goes first.

        Raises:
            WorkerError: a vCPU ended before.
        """
        self._saves.abort("the machine ends")
        self.machine.stop()
        elapsed_s = time.monotonic() - self._started_s
        self.control.close()
        status = self.machine.status()
        return RunReport(
            ops=status.ops,
            ops_per_vcpu=status.ops_per_vcpu,
            digest=self.machine.digest(),
            elapsed_s=elapsed_s,
            ops_per_s=sum(self.done_ops) / elapsed_s,
            memory_bytes=status.memory_bytes,
            resident_pages=status.resident_pages,
            vcpus=status.vcpus,
            workload=status.workload,
            seed=status.seed,
            ended_by=self._ended_by,
        )

    def close(self) -> None:
        """End everything; closing twice is fine."""
        self.control.close()
        self.machine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
