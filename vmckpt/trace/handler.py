"""The saver's side of the tracer process: fork it, hear from it, have it arm traces again, notice its end.

    saver ── requests (socket) ──▶ tracer process "vmckpt-tracer" ── traps, answers ──▶ vCPUs
          ◀─ news (eventfd) ─────
          ◀─ journal (shared) ──▶

While the process lives, traces were in place all the time. When it ends, for whatever reason, its copies of their
descriptors close; should they be the last ones, all traces are lifted, and the vCPUs go on with the right content; nothing
that is read after that is known to be exact, so `news`, `arm` and `check` raise. A process closes its descriptors a
moment before it is seen to have ended: `confirm`, which it answers, is what proves that it was alive. It ends with the
saver, however that ends: the saver's end of the socket closes, and the kernel kills it with its parent.
"""

import contextlib
import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import NoReturn, Self

from vmckpt.errors import VmckptError, WorkerError
from vmckpt.kernel.process import Pidfd, die_with_parent, keep_only, name_process
from vmckpt.pages import PageRange
from vmckpt.trace.journal import Entry, Journal
from vmckpt.trace.respond import responder
from vmckpt.trace.rules import Mode, Rule
from vmckpt.trace.serve import ARMED, FAILED, MOST_RANGES, READY, Ends, pack_request, serve
from vmckpt.trace.tracer import Tracer

__all__ = ["Entry", "Handler"]

_NAME = "vmckpt-tracer"
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP)  # the saver decides what they mean
_END_S = 5.0
_ANSWER_S = 20  # longer than the machine lets a vCPU wait: what is armed in a piece takes milliseconds
_REASON_BYTES = 1 << 12


class Handler:
    """The tracer process. Only the thread that made it may use it; should that thread end, the process ends as well.

    Attributes:
        pid: of the process.
    """

    def __init__(self, tracer: Tracer, journal: Journal, rule: Rule, mode: Mode, memory_fd: int) -> None:
        """Fork it, and wait until it is ready for the first trap.

        Args:
            tracer: set up on every vCPU; this process's copies of its descriptors are closed.
            journal: stays the caller's.
            rule: which touches trap.
            mode: which moment is saved.
            memory_fd: page p of the machine lies at p * 4096.

        Raises:
            FeatureError: this system cannot do that.
            WorkerError: the process did not start.
        """
        self.pid = 0
        self._journal = journal
        self._socket, theirs = socket.socketpair()
        self._news_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.epoll()
        self._pidfd: Pidfd | None = None
        self._how = ""  # it ended, once that is known
        try:
            self._pidfd = self._fork(tracer, Ends(theirs, self._news_fd), rule, mode, memory_fd)
            theirs.close()
            self._poll.register(self._news_fd, select.EPOLLIN)
            self._poll.register(self._pidfd.fileno(), select.EPOLLIN)
            self._await(READY)
        except BaseException:
            theirs.close()
            self.close()
            raise
        finally:
            tracer.close()

    def _fork(self, tracer: Tracer, ends: Ends, rule: Rule, mode: Mode, memory_fd: int) -> Pidfd:
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None where the shell closed it
            stream.flush()  # or the process could write this one's buffered text once more
        parent_pid = os.getpid()
        try:
            self.pid = os.fork()
        except OSError as error:
            raise WorkerError(f"cannot start the tracer process: {error.strerror}") from error
        if self.pid == 0:
            journal = self._journal
            _live(tracer, journal, ends, parent_pid, rule=rule, mode=mode, memory_fd=memory_fd)
        try:
            return Pidfd(self.pid)
        except VmckptError:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise

    def fileno(self) -> int:
        """To poll: readable when there is news, or the process has ended; call `news` then."""
        return self._poll.fileno()

    def news(self) -> list[Entry]:
        """Everything that was logged since the last call.

        Raises:
            WorkerError: the process has ended.
        """
        for fd, _ in self._poll.poll(0):
            if fd != self._news_fd:
                self._raise_end()
            os.eventfd_read(fd)
        entries = self._journal.entries()
        if self._journal.lost:
            raise WorkerError("the tracer's log was full: not all touches are known")
        return entries

    def arm(self, ranges: Iterable[PageRange], *, reads: bool = False) -> None:
        """Trap writes to these pages again; returns when all of them do. Traps are answered meanwhile.

        Args:
            ranges: which.
            reads: reads too, as far as `Tracer.arm` can.

        Raises:
            WorkerError: the process has ended.
        """
        request: list[PageRange] = []
        for pages in _joined(ranges):
            request.append(pages)
            if len(request) == MOST_RANGES:
                self._request(request, reads=reads)
                request = []
        if request:
            self._request(request, reads=reads)

    def check(self) -> None:
        """Do nothing while the process lives.

        Raises:
            WorkerError: it has ended: since some moment before this nothing was traced.
        """
        if self._pidfd is None or self._pidfd.wait(0):
            self._raise_end()

    def confirm(self) -> None:
        """Return when the process has said that it lives: up to this call, no trace was missing.

        Raises:
            WorkerError: the process has ended.
        """
        self._request([], reads=False)

    def _request(self, ranges: list[PageRange], *, reads: bool) -> None:
        try:
            self._socket.sendall(pack_request(ranges, reads=reads))
        except OSError:
            self._raise_end()
        self._await(ARMED)

    def _await(self, answer: bytes) -> None:
        if not self._answers(_ANSWER_S):
            os.kill(self.pid, signal.SIGKILL)  # stopped, or stuck: what it holds is let go of
            self._raise_end(FAILED + b"it did not answer within %d s" % _ANSWER_S)
        try:
            heard = self._socket.recv(1)
        except OSError:
            heard = b""
        if heard != answer:
            self._raise_end(heard)

    def _answers(self, timeout_s: float) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def _raise_end(self, heard: bytes = b"") -> NoReturn:
        """Say how the process ended; it has, or is about to."""
        with contextlib.suppress(OSError):
            while more := self._socket.recv(_REASON_BYTES):
                heard += more
        self._reap()
        reason = heard.partition(FAILED)[2].decode(errors="replace")
        self._how = reason or self._how
        raise WorkerError(f"the tracer process {self.pid} ended before the save did: {self._how}")

    def _reap(self) -> None:
        if self._how or self._pidfd is None:
            return
        try:
            code = self._pidfd.reap()
            self._how = f"exit code {code}" if code >= 0 else f"killed by signal {-code}"
        except VmckptError:
            self._how = "how is not known, as SIGCHLD is ignored here"

    def close(self) -> None:
        """End the process and wait for its end: all traces are lifted. Closing twice is fine."""
        self._socket.close()
        if self._pidfd is not None:
            if not self._pidfd.wait(_END_S):
                self._pidfd.signal(signal.SIGKILL)
            self._reap()
            self._pidfd.close()
            self._pidfd = None
        self._poll.close()
        if self._news_fd >= 0:
            os.close(self._news_fd)
            self._news_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _joined(ranges: Iterable[PageRange]) -> Iterator[PageRange]:
    """The same pages in fewer ranges, where one begins at the end of the one before."""
    start = end = 0
    for low, high in ranges:
        if low != end:
            if end > start:
                yield PageRange(start, end)
            start = low
        end = high
    if end > start:
        yield PageRange(start, end)


def _live(
    tracer: Tracer, journal: Journal, ends: Ends, parent_pid: int, *, rule: Rule, mode: Mode, memory_fd: int
) -> NoReturn:
    """The life of the process. Never returns: what the parent set up to happen at exit is not its to do."""
    code = 1
    try:
        gc.disable()  # objects of the parent must not be finalized here, nor a vCPU wait for it
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        die_with_parent(parent_pid)
        name_process(_NAME)
        keep_only(memory_fd, ends.requests.fileno(), ends.news_fd, *tracer.descriptors())
        make_ready = journal.make_ready if mode is Mode.CHECKPOINT else _nothing  # nothing is copied else
        serve(tracer, responder(tracer, journal, rule, mode, memory_fd), ends, make_ready)
        code = 0
    except (BrokenPipeError, ConnectionResetError):
        pass  # the saver is gone; nobody is left to tell
    except VmckptError as error:
        _tell(ends, str(error))
    except Exception as error:  # noqa: BLE001 a bug: it must reach a person with its traceback
        _tell(ends, f"{type(error).__name__}: {error}")
        sys.stderr = sys.__stderr__  # what replaced it may write to a descriptor that was closed here
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _nothing() -> bool:
    return False


def _tell(ends: Ends, reason: str) -> None:
    with contextlib.suppress(OSError):
        ends.requests.sendall(FAILED + reason.encode())
