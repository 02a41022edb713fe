"""A vCPU as the supervisor sees it: a process of its own, named `vmckpt-vcpu`, at the other end of a link.

    fork ─▶ ready ─▶ paused ◀──▶ running ─▶ reached its last operation
                        └───────────┴────────────┴──▶ stop: ended           killed, or failed: WorkerError

Each is forked with the supervisor's memory; in its process it maps guest memory for itself and runs a `Processor`. It
dies with the supervisor. It ignores SIGINT, SIGTERM and SIGHUP: those reach a whole terminal's processes, and the
supervisor decides.
"""

import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, NoReturn

from vmckpt.errors import IoError, VmckptError, WorkerError
from vmckpt.kernel.process import die_with_parent, keep_only, name_process
from vmckpt.machine.link import Link, Message
from vmckpt.machine.operations import Operations, Share
from vmckpt.machine.processor import ATTENTION, LIVE_OPS, Attach, Command, Place, Processor
from vmckpt.machine.ram import Ram
from vmckpt.machine.state import VcpuState

__all__ = ["Role", "Vcpu"]

_FAILED = "failed"
_SILENCE_S = 0.05


class Role(NamedTuple):
    """What a vCPU's process is to be."""

    ram: Ram
    share: Share
    operations: Operations
    state: VcpuState
    control: memoryview
    """`processor.WORDS` words, shared."""
    attach: Attach
    commands: Mapping[str, Command]
    amid: Collection[str] = ()
    """Commands that it carries out while it waits in the midst of an operation, too."""


class Vcpu:
    """One vCPU. Only the thread that made it may use it; should that thread end, the vCPU ends as well.

    Attributes:
        index: 0 for the first.
        pid: its process; 0 once it has ended.
        fd: readable when it has something to say, or has ended: call `hear` then.
        state: its registers, as it last told them; exact while it does not run.
        reached: it has done its last operation, and waits.
        on_event: called with what it asks in the midst of an operation (`Processor.ask`); `answer` lets it go on.
    """

    def __init__(self, role: Role) -> None:
        """Fork the process, which starts paused."""
        self.index = role.share.vcpu
        self.state = role.state
        self.reached = False
        self.on_event: Callable[[Message], None] = lambda _: None
        self._answers: dict[int, Message] = {}  # came while another one was waited for
        self._control = role.control
        self._control[LIVE_OPS] = role.state.ops
        self._number = 0
        self._link, theirs = Link.pair()
        parent_pid = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _live(role, theirs, parent_pid)
        theirs.close()
        self.fd = self._link.fileno()

    @property
    def ops(self) -> int:
        """Operations since boot; a moment old while it runs."""
        return self._control[LIVE_OPS] if self.pid else self.state.ops

    @property
    def pulse(self) -> tuple[int, int]:
        """Changes as long as it gets on, be it by less than a slice of operations: who traps sleeps, and is switched."""
        return self.ops, _switches_of(self.pid)

    def post(self, name: str, values: Mapping[str, object], descriptors: Sequence[int] = ()) -> int:
        """Send a request; the number to `take` its answer with.

        Raises:
            WorkerError: the vCPU has ended.
        """
        self._number += 1
        try:
            self._link.send(Message(name, self._number, values, descriptors))
        except IoError:
            message = self._link.receive()
            while message is not None and message.name != _FAILED:
                message = self._link.receive()
            self._raise_end(message)
        self._control[ATTENTION] = 1
        return self._number

    def take(
        self, number: int, *, timeout_s: float, meanwhile: Callable[[], object] = lambda: None
    ) -> Message:
        """Wait for the answer to request `number`; the caller owns the descriptors that came with it.

        Args:
            number: as `post` gave it.
            timeout_s: how long to wait.
            meanwhile: called some times in a second while there is none.

        Raises:
            WorkerError: the vCPU has ended, or does not answer in time.
        """
        deadline_s = time.monotonic() + timeout_s
        while number not in self._answers and (left_s := deadline_s - time.monotonic()) > 0:
            if self._link.wait(min(left_s, _SILENCE_S)):
                self.hear()
            else:
                meanwhile()
        if number in self._answers:
            return self._answers.pop(number)
        raise WorkerError(
            f"vCPU {self.index} (process {self.pid}) did not answer within {timeout_s:g} s: is it stopped, or waiting "
            "for a page that nobody brings?"
        )

    def has_answered(self, number: int) -> bool:
        """Whether request `number` was answered, as far as was heard; what the answer was is forgotten then."""
        return self._answers.pop(number, None) is not None

    def answer(self, name: str) -> None:
        """Let it go on that asked `name` in the midst of an operation; should it have ended, that is heard elsewhere."""
        with contextlib.suppress(IoError):
            self._link.send(Message(name, 0, {}))

    def has_news(self) -> bool:
        """Whether there is a message to receive, or the end."""
        return self._link.wait(0)

    def hear(self) -> None:
        """Receive one message; an answer is kept until it is taken.

        Raises:
            WorkerError: the vCPU has ended.
        """
        message = self._link.receive()
        if message is None or message.name == _FAILED:
            self._raise_end(message)
        ops, register = message.values["ops"], message.values["register"]
        assert isinstance(ops, int)
        assert isinstance(register, int)
        self.state = VcpuState(ops, register)
        if message.name in {"reached", "resume"}:  # in the order in which they happened
            self.reached = message.name == "reached"
        if message.number:
            self._answers[message.number] = message
        elif message.name != "reached":
            self.on_event(message)

    def join(self) -> None:
        """Wait until the process has ended, after it answered `stop`."""
        if self.pid:
            self._reap()

    def kill(self) -> None:
        """End the process, wherever it is, and wait until it has ended."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._reap()

    def _reap(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        self.state = self.state._replace(ops=max(self.state.ops, self._control[LIVE_OPS]))
        self.pid = 0
        self._link.close()
        return os.waitstatus_to_exitcode(status)

    def _raise_end(self, message: Message | None = None) -> NoReturn:
        pid = self.pid
        code = self._reap()
        how = f"exit code {code}" if code >= 0 else f"killed by signal {-code} ({_name_of(-code)})"
        if message is not None:
            how = str(message.values["message"])
        raise WorkerError(f"vCPU {self.index} (process {pid}) ended after {self.state.ops} operations: {how}")


def _switches_of(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as lines:
            return sum(int(line.split()[1]) for line in lines if "voluntary_ctxt_switches:" in line)
    except (OSError, ValueError):
        return 0


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "a real-time signal"


def _live(role: Role, link: Link, parent_pid: int) -> NoReturn:
    """The life of the process. Never returns: what the parent set up to happen at exit is not the vCPU's to do."""
    code = 1
    try:
        gc.disable()  # objects of the parent must not be finalized here; a vCPU makes no cycles
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        die_with_parent(parent_pid)
        name_process("vmckpt-vcpu")
        keep_only(role.ram.fd, link.fileno())
        memory = role.ram.map()
        place = Place(role.share, memory, memory.view.cast("Q"))
        Processor(
            place,
            role.operations,
            role.state,
            access=role.attach(place),
            control=role.control,
            link=link,
            commands=role.commands,
            amid=role.amid,
        ).run()
        code = 0
    except VmckptError as error:
        with contextlib.suppress(VmckptError):
            link.send(Message(_FAILED, 0, {"message": str(error)}))
    except Exception:  # noqa: BLE001 a bug: it must reach a person with its traceback
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
    finally:
        os._exit(code)
