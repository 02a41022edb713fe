"""Processes beside each other: their names, ends and peers, and descriptors sent from one to another.

supervisor ── socket: bytes and descriptors ──▶ handler         a Pidfd tells each when the other has ended
"""

import array
import contextlib
import os
import select
import signal
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from vmckpt.errors import FeatureError, IoError, WorkerError
from vmckpt.kernel import libc
from vmckpt.kernel.memory import pinned

__all__ = [
    "Peer",
    "Pidfd",
    "die_with_parent",
    "keep_only",
    "name_process",
    "peer_of",
    "receive_descriptors",
    "send_descriptors",
    "undisturbed",
    "unstoppable",
]

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_NAME_BYTES = 15
_FIRST_FD = 3  # after the standard ones
_MOST_FDS = 1 << 16  # where the system knows no limit
_DESCRIPTOR_LIMIT = 253  # SCM_MAX_FD: the most one message carries
_DESCRIPTOR_BYTES = array.array("i").itemsize


def name_process(name: str) -> None:
    """Name the calling thread for `ps -o comm` and `top`; called from the main thread, that names the process.

    A courtesy: where the kernel has no such call, nothing happens.

    Raises:
        ValueError: the name is longer than the kernel's 15 bytes.
    """
    raw = name.encode()
    if len(raw) > _NAME_BYTES:
        raise ValueError(f"the kernel keeps {_NAME_BYTES} bytes of a process's name: {name!r} has {len(raw)}")
    try:
        with pinned(raw + b"\0") as (address, _):
            libc.call("prctl", _PR_SET_NAME, address, 0, 0, 0)
    except OSError:
        return


def die_with_parent(parent_pid: int, signal_number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when the thread that forked it ends.

    Args:
        parent_pid: the parent's, taken before the fork: it may have ended since.
        signal_number: what to send.

    Raises:
        FeatureError: this system cannot do that.
        WorkerError: the parent has ended already.
    """
    try:
        libc.call("prctl", _PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0)
    except OSError as error:
        raise FeatureError(f"cannot follow the parent's end: {error.strerror}") from error
    if os.getppid() != parent_pid:
        raise WorkerError(f"the parent, process {parent_pid}, ended before its child had started")


def keep_only(*fds: int) -> None:
    """Close every other descriptor but the standard ones: what stays open in a child seems alive to who waits for its end."""
    start = _FIRST_FD
    for fd in sorted(fd for fd in fds if fd >= _FIRST_FD):
        os.closerange(start, fd)
        start = fd + 1
    limit = os.sysconf("SC_OPEN_MAX")
    os.closerange(start, limit if limit > 0 else _MOST_FDS)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Do without SIGINT, SIGTERM and SIGHUP for a moment; what came meanwhile comes at the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def unstoppable() -> Iterator[None]:
    """Ignore SIGTSTP (Ctrl-Z), here and in processes forked meanwhile. In another thread than the main one, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, before)


class Pidfd:
    """A process, held by a descriptor that never comes to stand for another one; readable once it has ended."""

    def __init__(self, pid: int) -> None:
        """Take hold of `pid`.

        Raises:
            FeatureError: this system has no pidfd.
            IoError: there is no such process.
        """
        if not hasattr(os, "pidfd_open"):
            raise FeatureError("cannot hold on to a process: this system has no pidfd")
        self.pid = pid
        try:
            self._fd = os.pidfd_open(pid)
        except OSError as error:
            raise IoError.of(error, f"cannot hold on to process {pid}") from error

    def fileno(self) -> int:
        """The descriptor, to poll; -1 once closed."""
        return self._fd

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the process has ended; False when it has not within `timeout_s`. Reaps nothing."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))

    def signal(self, signal_number: int) -> bool:
        """Send a signal; False when the process has ended.

        Raises:
            IoError: this process may not.
        """
        try:
            signal.pidfd_send_signal(self._fd, signal_number)
        except ProcessLookupError:
            return False
        except OSError as error:
            raise IoError.of(error, f"cannot send signal {signal_number} to process {self.pid}") from error
        return True

    def reap(self) -> int:
        """Wait for this process's own child; its exit code, or minus the signal that ended it.

        Raises:
            IoError: it is no child of this process, or was reaped before.
        """
        try:
            result = os.waitid(os.P_PIDFD, self._fd, os.WEXITED)
        except OSError as error:
            raise IoError.of(error, f"cannot wait for process {self.pid}") from error
        assert result is not None  # only with WNOHANG
        return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status

    def close(self) -> None:
        """Let go of the process; it runs on."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Peer(NamedTuple):
    """Who was at the other end of a UNIX socket when it connected."""

    pid: int
    uid: int
    gid: int


_PEER = struct.Struct("=iII")


def peer_of(connection: socket.socket) -> Peer:
    """The process at the other end of a UNIX socket (SO_PEERCRED).

    Raises:
        FeatureError: this system does not tell.
        IoError: this is no UNIX socket.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        raise FeatureError("cannot tell who connected: this system has no SO_PEERCRED")
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    except OSError as error:
        raise IoError.of(error, "cannot tell who connected") from error
    peer = Peer(*_PEER.unpack(raw)) if len(raw) == _PEER.size else None
    if peer is None or peer.pid <= 0:
        raise IoError("cannot tell who connected: the kernel names no process")
    return peer


def send_descriptors(connection: socket.socket, message: bytes, descriptors: Sequence[int]) -> None:
    """Send one message with copies of `descriptors`; the caller keeps its own.

    Raises:
        IoError: the peer has gone, or took only a part of the message.
        ValueError: the message is empty (descriptors travel with bytes), or the descriptors are too many.
    """
    if not message or len(descriptors) > _DESCRIPTOR_LIMIT:
        raise ValueError(f"cannot send {len(descriptors)} descriptors with {len(message)} bytes")
    try:
        sent = socket.send_fds(connection, [message], list(descriptors))
    except OSError as error:
        raise IoError.of(error, "cannot send descriptors") from error
    if sent != len(message):
        raise IoError(f"the message with descriptors was cut: {sent} of {len(message)} bytes went out")


def receive_descriptors(
    connection: socket.socket, message_limit_bytes: int, descriptor_limit: int
) -> tuple[bytes, list[int]]:
    """Receive one message with its descriptors, which are closed on exec. A stream may give the message in parts.

    Whatever goes wrong, no descriptor stays open behind the caller's back.

    Args:
        connection: a UNIX socket.
        message_limit_bytes: the longest message to take.
        descriptor_limit: the most descriptors to take.

    Raises:
        IoError: the peer has gone, or sent more than was agreed.
    """
    room = socket.CMSG_SPACE(descriptor_limit * _DESCRIPTOR_BYTES)
    try:
        message, ancillary, flags, _ = connection.recvmsg(
            message_limit_bytes, room, getattr(socket, "MSG_CMSG_CLOEXEC", 0)
        )
    except OSError as error:
        raise IoError.of(error, "cannot receive descriptors") from error
    descriptors = _descriptors_in(ancillary)
    trouble = _trouble(message, flags, len(descriptors), descriptor_limit)
    if trouble:
        for fd in descriptors:
            os.close(fd)
        raise IoError(trouble)
    return message, descriptors


def _descriptors_in(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    descriptors = array.array("i")
    for level, kind, raw in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(raw[: len(raw) - len(raw) % _DESCRIPTOR_BYTES])
    return descriptors.tolist()


def _trouble(message: bytes, flags: int, count: int, limit: int) -> str:
    if flags & socket.MSG_CTRUNC or count > limit:
        return f"the peer sent more descriptors than the {limit} expected"
    if flags & socket.MSG_TRUNC:
        return "the peer sent a longer message than expected"
    if not message:
        return "the peer closed the connection"
    return ""
