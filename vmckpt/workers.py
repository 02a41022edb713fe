"""Worker processes: forked, fed through a pipe each, answering through another.

    coordinator ── message ──▶ worker          Messages are bytes, framed by a length. Bulk goes through memory that
                ◀── answer ───                 was shared before the fork, or straight to a file.

Forked by hand rather than with multiprocessing: its import and start cost 12 ms, of the 170 that a whole save of a
512 MiB image takes. Threads were tried as well (docs/performance.md): hashing page by page holds the interpreter lock.

A worker ends when the coordinator's end of its pipe closes, however the coordinator died. A worker that fails sends its
error, and `Crew.receive` raises it; one that is killed raises WorkerError there. Workers ignore SIGINT: a Ctrl-C at a
terminal reaches them too, and the coordinator decides.
"""

import contextlib
import os
import select
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from vmckpt.errors import UsageError, VmckptError, WorkerError

__all__ = ["Channel", "Crew", "affordable_workers", "worker_count"]

_FRAME = struct.Struct("<I")
_FAILED = 1 << 31  # set in a frame's length: the body is a pickled error
_READ_BYTES = 1 << 16
_ALL_BYTES = 160 << 20  # leaves the coordinator its tables, and all of it below 256 MiB
_PROCESS_BYTES = 6 << 20


def worker_count(jobs: int | None) -> int:
    """How many workers `jobs` stands for: None, one for each processor that this process may run on.

    Raises:
        UsageError: less than one.
    """
    if jobs is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if jobs < 1:
        raise UsageError(f"{jobs} jobs cannot do any work: expected 1 or more")
    return jobs


def affordable_workers(jobs: int, each_bytes: int) -> int:
    """How many of `jobs` workers fit into what all of them together may take, if each holds `each_bytes` of data.

    A process of its own comes on top: what an interpreter does not share with the one it was forked from.
    """
    return max(1, min(jobs, _ALL_BYTES // (each_bytes + _PROCESS_BYTES)))


class _Frames:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, received: bytes) -> Iterator[tuple[int, bytes]]:
        data = self._rest + received if self._rest else received
        start = 0
        while len(data) - start >= _FRAME.size:
            (word,) = _FRAME.unpack_from(data, start)
            end = start + _FRAME.size + (word & ~_FAILED)
            if end > len(data):
                break
            yield word & _FAILED, data[start + _FRAME.size : end]
            start = end
        self._rest = data[start:]


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


class Channel:
    """A worker's side of its two pipes."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading = reading
        self._writing = writing

    def messages(self) -> Iterator[bytes]:
        """Each message from the coordinator, until it closes the pipe."""
        frames = _Frames()
        while received := os.read(self._reading, _READ_BYTES):
            for _, message in frames.feed(received):
                yield message

    def send(self, answer: bytes) -> None:
        """Answer the coordinator."""
        _write_all(self._writing, _FRAME.pack(len(answer)) + answer)

    def fail(self, error: VmckptError) -> None:
        """Report an error; the coordinator's `receive` raises it."""
        import pickle  # noqa: PLC0415 start-up: seldom needed

        body = pickle.dumps(error)
        _write_all(self._writing, _FRAME.pack(len(body) | _FAILED) + body)


class Crew:
    """A number of worker processes that run the same function.

    Use it as a context manager: leaving it by an exception kills the workers, leaving it otherwise lets them finish.
    Only the process and thread that made it may use it.
    """

    def __init__(self, count: int, work: Callable[[Channel], None]) -> None:
        """Fork `count` workers; each runs `work` on its channel and exits when that returns."""
        self._pids: list[int] = []
        self._writing: list[int] = []
        self._reading: list[int] = []
        self._frames = [_Frames() for _ in range(count)]
        self._poll = select.poll()
        self._of_fd: dict[int, int] = {}
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None where the shell closed it
            stream.flush()  # or a worker could write the parent's buffered text once more
        try:
            for worker in range(count):
                self._fork(worker, work)
        except BaseException:
            self._kill()
            raise

    def __len__(self) -> int:
        return len(self._pids)

    def _fork(self, worker: int, work: Callable[[Channel], None]) -> None:
        fds: list[int] = []
        try:
            fds += os.pipe()
            fds += os.pipe()
            pid = os.fork()
        except OSError as error:
            for fd in fds:
                os.close(fd)
            raise WorkerError(f"cannot start a worker process: {error.strerror}") from error
        for_worker, writing, reading, for_coordinator = fds
        if pid == 0:
            for fd in (*self._writing, *self._reading, writing, reading):
                os.close(fd)  # or workers would keep each other's pipes open
            _run(work, Channel(for_worker, for_coordinator))
        os.close(for_worker)
        os.close(for_coordinator)
        self._pids.append(pid)
        self._writing.append(writing)
        self._reading.append(reading)
        self._of_fd[reading] = worker
        self._poll.register(reading, select.POLLIN)

    def send(self, worker: int, message: bytes) -> None:
        """Give `worker` a message.

        Messages are small and few are under way, so the pipe never fills.

        Raises:
            WorkerError: the worker is gone.
        """
        try:
            _write_all(self._writing[worker], _FRAME.pack(len(message)) + message)
        except BrokenPipeError:
            self._raise_failure(worker)

    def receive(self) -> list[tuple[int, bytes]]:
        """Wait for answers: pairs of worker and answer, at least one.

        Raises:
            VmckptError: the error that a worker met.
            WorkerError: a worker ended without saying why.
        """
        answers: list[tuple[int, bytes]] = []
        while not answers:
            for fd, _ in self._poll.poll():
                worker = self._of_fd[fd]
                answers += [(worker, answer) for answer in self._read(worker)]
        return answers

    def _read(self, worker: int) -> Iterator[bytes]:
        received = os.read(self._reading[worker], _READ_BYTES)
        if not received:
            raise WorkerError(f"a worker process ended before its work did: {self._end_of(worker)}")
        for failed, body in self._frames[worker].feed(received):
            if failed:
                import pickle  # noqa: PLC0415 start-up: seldom needed

                error = pickle.loads(body)  # noqa: S301 our own child's bytes
                raise error
            yield body

    def _raise_failure(self, worker: int) -> None:
        """A worker does not listen any more: raise what it has to say."""
        while True:
            for _ in self._read(worker):
                pass  # answers of before it failed

    def _end_of(self, worker: int) -> str:
        try:
            _, status = os.waitpid(self._pids[worker], 0)
        except ChildProcessError:
            return "how is not known, as SIGCHLD is ignored here"
        finally:
            self._pids[worker] = 0
        code = os.waitstatus_to_exitcode(status)
        return f"exit code {code}" if code >= 0 else f"killed by signal {-code}"

    def close(self) -> None:
        """Let the workers finish, and wait until they have."""
        for fd in (*self._writing, *self._reading):
            os.close(fd)
        self._writing, self._reading = [], []
        for pid in filter(None, self._pids):
            with contextlib.suppress(ChildProcessError):  # where SIGCHLD is ignored, the kernel reaps them
                os.waitpid(pid, 0)
        self._pids = []

    def _kill(self) -> None:
        for pid in self._pids:
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._kill()


def _run(work: Callable[[Channel], None], channel: Channel) -> None:
    """The life of a worker. Never returns: what the parent set up to happen at exit is not the worker's to do."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        work(channel)
        code = 0
    except VmckptError as error:
        with contextlib.suppress(OSError):
            channel.fail(error)
    except BrokenPipeError:
        pass  # the coordinator is gone; nobody is left to tell
    except Exception:  # noqa: BLE001 a bug: it must reach a person with its traceback
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
    finally:
        os._exit(code)
