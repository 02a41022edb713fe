"""Keeps a handler alive: a process that forks one, waits for its end, and forks the next.

    supervisor ── fork ──▶ vmckpt-keeper ── fork ──▶ vmckpt-handler        killed ─▶ the next one goes on
        ▲                                                 │
        └────────── "prefetched", "resident", "failed" ───┘                the end of both ─▶ the next keeper

A process of its own, because the supervisor may be waiting for a vCPU at the moment in which the handler dies, and that
vCPU for the handler. Both hold copies of the userfaultfds, so nobody who waits is let go meanwhile. A handler that dies
again and again without getting anything done ends the restore. Used by `lazy`, in one thread.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from vmckpt import errors
from vmckpt.errors import IoError, VmckptError, WorkerError
from vmckpt.kernel.process import die_with_parent, keep_only, name_process
from vmckpt.machine.link import Link, Message
from vmckpt.restoring.handler import FAILED, Service, fail, serve
from vmckpt.restoring.log import Counter

__all__ = ["Keeper"]

_MOST_FRUITLESS = 50
"""Handlers in a row that died before they had done anything."""


class Keeper:
    """The supervisor's end.

    Attributes:
        fd: readable when `hear` has something to hear; another one after the keeper had to be started again.
        prefetched: the vCPUs may start.
        resident: every page that is not zero is in place.
        failure: why the restore cannot go on, if it cannot.
    """

    def __init__(self, service: Callable[[Link], Service], steps: Callable[[], object]) -> None:
        """Fork the keeper.

        Args:
            service: tells a handler everything, given its end of a link.
            steps: changes whenever handlers have done something.
        """
        self._service = service
        self._steps = steps
        self._steps_at_start: object = None
        self.prefetched = False
        self.resident = False
        self.failure: VmckptError | None = None
        self._pid = 0
        self._fruitless = 0
        self._start()

    def _start(self) -> None:
        self._link, theirs = Link.pair()
        self.fd = self._link.fileno()
        parent_pid = os.getpid()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        self._pid = os.fork()
        if self._pid == 0:
            _keep(self._service(theirs), parent_pid)
        theirs.close()

    def hear(self, *, wait: bool = False) -> None:
        """Take in what the handler says; `wait` for something, if it has said nothing yet."""
        while self.failure is None and self._link.wait(None if wait else 0):
            message = self._link.receive()
            wait = False
            if message is None:
                self._revive()
            elif message.name == "failed":
                self.failure = _error_of(message)
            else:
                self.prefetched = True
                self.resident = self.resident or message.name == "resident"

    def await_prefetched(self) -> None:
        """Wait until the vCPUs may start; raises why that cannot be."""
        while not self.prefetched:
            self.hear(wait=True)
            self.check()

    def await_resident(self) -> None:
        """Wait until all memory is there; raises why that cannot be."""
        while not self.resident:
            self.hear(wait=True)
            self.check()

    def check(self) -> None:
        """Raise what has made the restore fail, if it has."""
        if self.failure is not None:
            raise self.failure

    def explain(self, timeout_s: float) -> None:
        """A vCPU has ended. Should that be because the restore failed, raise why."""
        if self._pid and self.failure is None and self._link.wait(timeout_s):
            self.hear()
        self.check()

    def tell(self, name: str) -> None:
        """Send the handler a message."""
        with contextlib.suppress(IoError):
            self._link.send(Message(name, 0, {}))

    def _revive(self) -> None:
        """The keeper is gone, and the handler with it."""
        self._reap()
        steps = self._steps()
        self._fruitless = 0 if steps != self._steps_at_start else self._fruitless + 1
        self._steps_at_start = steps
        if self._fruitless >= _MOST_FRUITLESS:
            self.failure = WorkerError(
                f"the keeper of the fault handler ended {self._fruitless} times in a row, with nothing done"
            )
            return
        self._start()

    def _reap(self) -> None:
        if self._pid:
            os.waitpid(self._pid, 0)
            self._pid = 0
        self._link.close()

    def close(self) -> None:
        """End handler and keeper, and wait until they have ended. Closing twice is fine."""
        if not self._pid:
            return
        self.tell("end")
        if self.failure is not None or not self._ends():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)  # and with it goes the handler
        self._reap()

    def _ends(self) -> bool:
        """Whether both end within a moment: the link's end shows it."""
        while self._link.wait(_GOODBYE_S):
            if self._link.receive() is None:
                return True
        return False


_GOODBYE_S = 2.0


def _error_of(message: Message) -> VmckptError:
    values = message.values
    kind = getattr(errors, str(values["kind"]), WorkerError)
    assert isinstance(kind, type)
    assert issubclass(kind, VmckptError)
    path, offset = values["path"], values["offset"]
    assert path is None or isinstance(path, str)
    assert offset is None or isinstance(offset, int)
    return kind(str(values["message"]), path=path, offset=offset)


def _keep(service: Service, parent_pid: int) -> NoReturn:
    """The life of the keeper's process. Never returns: what the parent set up for its exit is not the keeper's to do."""
    code = 1
    try:
        die_with_parent(parent_pid)
        name_process("vmckpt-keeper")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        keep_only(*service.fds)
        code = _keep_alive(service)
    except VmckptError as error:
        with contextlib.suppress(VmckptError):
            fail(service, error)
    finally:
        os._exit(code)


def _keep_alive(service: Service) -> int:
    counters = service.shared.log.counters
    fruitless = 0
    while True:
        counters[Counter.HANDLERS] += 1
        counters[Counter.BUSY] = 1
        steps = counters[Counter.STEPS]
        keeper_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            _handle(service, keeper_pid)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code in {0, 1, FAILED}:
            return code
        # Who was killed in its sleep had nothing to do; who died over a piece of work may do so again and again.
        is_fruitless = counters[Counter.STEPS] == steps and counters[Counter.BUSY]
        fruitless = fruitless + 1 if is_fruitless else 0
        if fruitless >= _MOST_FRUITLESS:
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            raise WorkerError(f"the fault handler ended {fruitless} times in a row {how}, with nothing done")


def _handle(service: Service, parent_pid: int) -> NoReturn:
    code = 1
    try:
        die_with_parent(parent_pid)
        code = serve(service)
    except WorkerError:  # the keeper is gone already: so the next one forks the next handler
        pass
    except Exception:  # noqa: BLE001 a bug: it must reach a person with its traceback
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
    finally:
        os._exit(code)
