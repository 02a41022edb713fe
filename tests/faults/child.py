"""Runs one action of vmckpt in a child process in which chosen system calls kill, fail or fall short.

    test ─▶ fork ─▶ os.* replaced ─▶ action ─▶ how it ended, through a pipe; and whether anybody outlived it

The replacements are inherited by vmckpt's own workers. Each process counts its calls for itself.
"""

import errno
import json
import os
import select
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vmckpt.errors import VmckptError

__all__ = ["NAMING_CALLS", "READING_CALLS", "WRITING_CALLS", "Ended", "Fault", "no_tmpfile", "run_in_child"]

WRITING_CALLS = ("writev", "pwritev", "pwrite", "ftruncate")
NAMING_CALLS = ("open", "fsync", "link", "replace", "unlink")
READING_CALLS = ("pread", "preadv")
PATIENCE_S = 60.0  # only a broken run ever waits so long


@dataclass(frozen=True)
class Ended:
    """How an action ended."""

    signal: int  # that ended the process; 0 where it ended by itself
    error: str  # class of the exception, or ""
    code: int  # its exit code
    message: str
    outlived: bool  # whether a worker was still there when the patience ended


@dataclass
class Fault:
    """What happens at the `at`-th call (from 0) of one of `calls`, in the coordinator or in its workers."""

    calls: Sequence[str]
    at: int
    act: Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
    in_workers: bool = False
    always: bool = False  # at every call from there on
    seen: int = 0
    owner: int = field(default=0)

    def install(self) -> None:
        """Replace the calls, in this process and in those it forks later."""
        self.owner = os.getpid()
        for name in self.calls:
            setattr(os, name, self._replacement(getattr(os, name)))

    def _replacement(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if (os.getpid() != self.owner) != self.in_workers:
                return real(*args, **kwargs)
            self.seen += 1
            if self.seen - 1 == self.at or (self.always and self.seen > self.at):
                return self.act(real, args, kwargs)
            return real(*args, **kwargs)

        return call


def kill_before(_real: Callable[..., Any], _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Any:
    """End this process in place of the call."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_after(real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make the call, then end this process."""
    try:
        real(*args, **kwargs)
    finally:
        os.kill(os.getpid(), signal.SIGKILL)


def failing(number: int) -> Callable[..., Any]:
    """Fail with the error `number`."""

    def act(_real: Callable[..., Any], _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Any:
        raise OSError(number, os.strerror(number))

    return act


def cut_short(real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Transfer a third of what was asked for, at least one byte."""
    fd, what, *rest = args
    if isinstance(what, int):
        return real(fd, max(what // 3, 1), *rest, **kwargs)
    if not isinstance(what, list):
        return real(fd, memoryview(what)[: max(len(what) // 3, 1)], *rest, **kwargs)
    budget = max(sum(map(len, what)) // 3, 1)
    parts = []
    for part in what:
        parts.append(memoryview(part)[:budget])
        budget -= len(parts[-1])
        if not budget:
            break
    return real(fd, parts, *rest, **kwargs)


def no_tmpfile() -> None:
    """Make this process's file systems ones that have no nameless files."""
    real = os.open

    def call(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real(path, flags, *args, **kwargs)

    os.open = call


def run_in_child(action: Callable[[], object], *prepare: Callable[[], object]) -> Ended:
    """Fork, prepare (faults, limits), act; wait for the child and all that it forked."""
    alive, held = os.pipe()  # the writing end is inherited by everybody: its hang-up says that all are gone
    answer, answering = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(alive)
        os.close(answer)
        _act(action, prepare, answering)
    os.close(held)
    os.close(answering)
    try:
        _, status = os.waitpid(pid, 0)
        poll = select.poll()
        poll.register(alive, select.POLLHUP)
        outlived = not poll.poll(PATIENCE_S * 1000)
        told = os.read(answer, 1 << 16) if not outlived else b""
    finally:
        os.close(alive)
        os.close(answer)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return Ended(-code, "", 0, "", outlived)
    error, number, message = json.loads(told or '["died without a word", 70, ""]')
    return Ended(0, error, number, message, outlived)


def _act(action: Callable[[], object], prepare: Sequence[Callable[[], object]], answering: int) -> None:
    told: tuple[str, int, str] = ("", 0, "")
    try:
        for step in prepare:
            step()
        action()
    except VmckptError as error:
        told = (type(error).__name__, error.exit_code, str(error))
    except BaseException as error:  # noqa: BLE001 - whatever it is, the test is to see it
        told = (type(error).__name__, 70, repr(error))
    finally:
        os.write(answering, json.dumps(told).encode())
        os._exit(0)
