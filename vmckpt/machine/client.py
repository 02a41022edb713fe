"""A client of the control socket: one request, or a conversation of many.

    ask(path, "pause") ─▶ connect ─▶ {"id": 1, "do": "pause"} ─▶ the machine's answer, or its refusal as an exception
    Conversation(path) ─▶ connect ─▶ ask, ask, ... ─▶ close           an answer may bring descriptors

What answers may be no machine at all, so the answer is checked. The protocol is in docs/machine.md. The commands `vm` and
`save` use it, and tests.
"""

import contextlib
import errno
import json
import os
import socket
import stat
import time
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import NamedTuple, Self

import vmckpt.errors
from vmckpt.errors import IoError, SourceError, VmckptError
from vmckpt.kernel.process import receive_descriptors

__all__ = ["Answer", "Conversation", "ask"]

_RETRY_S = 0.02
_READ_BYTES = 1 << 16
_MOST_ANSWER_BYTES = 1 << 24
_MOST_DESCRIPTORS = 64


class Answer(NamedTuple):
    """What a machine answered."""

    values: Mapping[str, object]
    descriptors: list[int]
    """Those that came with it; the caller owns them."""


class Conversation:
    """A connection that lasts; its end ends what was begun over it. Belongs to one thread of one process.

    Use it as a context manager: leaving it closes the connection.
    """

    def __init__(self, path: str, *, timeout_s: float = 60.0, wait_s: float = 0.0) -> None:
        """Connect to the machine at a control socket.

        Args:
            path: of the socket.
            timeout_s: how long to wait for each answer.
            wait_s: how long to wait for the socket itself, where the machine is only being started.

        Raises:
            IoError: no machine listens there.
            SourceError: what is there is no control socket.
        """
        self._set_up(_connect(path, timeout_s, wait_s), path, timeout_s)

    @classmethod
    def over(cls, connection: socket.socket, *, timeout_s: float = 60.0) -> Self:
        """A conversation by a connection that exists already, which is taken over."""
        conversation = cls.__new__(cls)
        conversation._set_up(connection, None, timeout_s)  # noqa: SLF001 its own class
        return conversation

    def _set_up(self, connection: socket.socket, path: str | None, timeout_s: float) -> None:
        self._connection = connection
        self._connection.settimeout(timeout_s)
        self._path = path
        self._number = 0
        self._received = bytearray()

    def fileno(self) -> int:
        """To poll between two questions: readable when the machine has ended; -1 once closed."""
        return self._connection.fileno()

    def ask(self, do: str, values: Mapping[str, object] = MappingProxyType({})) -> Answer:
        """Ask for one thing, and wait for the answer.

        Raises:
            IoError: the machine has ended, or does not answer in time.
            SourceError: what is there is no machine.
            VmckptError: the machine refuses; the class is the machine's.
        """
        self._number += 1
        descriptors: list[int] = []
        try:
            with contextlib.suppress(BrokenPipeError):  # it may have said why, before it closed
                self._connection.sendall(
                    json.dumps({"id": self._number, "do": do, **values}).encode() + b"\n"
                )
            return Answer(_answer(self._line(descriptors), self._path, self._number), descriptors)
        except BaseException as error:
            for fd in descriptors:
                os.close(fd)
            if isinstance(error, OSError):
                raise IoError.of(error, "the machine did not answer", path=self._path) from error
            raise

    def _line(self, descriptors: list[int]) -> bytes:
        while b"\n" not in self._received:
            received, came = self._receive()
            descriptors += came
            self._received += received
            if len(self._received) > _MOST_ANSWER_BYTES:
                raise SourceError("what listens there does not answer as a machine does", path=self._path)
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received = bytearray(rest)
        return line

    def _receive(self) -> tuple[bytes, list[int]]:
        try:
            return receive_descriptors(self._connection, _READ_BYTES, _MOST_DESCRIPTORS)
        except IoError as error:
            if isinstance(error.__cause__, TimeoutError):
                raise IoError("the machine did not answer in time", path=self._path) from error
            raise IoError("the machine has ended, or closed the connection", path=self._path) from error

    def close(self) -> None:
        """End the conversation. Closing twice is fine."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def ask(
    path: str,
    do: str,
    values: Mapping[str, object] = MappingProxyType({}),
    *,
    timeout_s: float = 60.0,
    wait_s: float = 0.0,
    until_closed: bool = False,
) -> dict[str, object]:
    """Ask the machine at a control socket for one thing.

    Args:
        path: of the socket.
        do: `status`, `pause`, `resume`, `stop`.
        values: what the request takes.
        timeout_s: how long to wait for the answer.
        wait_s: how long to wait for the socket itself, where the machine is only being started.
        until_closed: return only when the machine has closed the connection.

    Raises:
        IoError: no machine listens there, or it does not answer in time.
        SourceError: what is there is no control socket.
        VmckptError: the machine refuses; the class is the machine's.
    """
    with _connect(path, timeout_s, wait_s) as connection:
        try:
            connection.sendall(json.dumps({"id": 1, "do": do, **values}).encode() + b"\n")
            with connection.makefile("rb") as stream:
                line = stream.readline()
                while until_closed and stream.read(1):
                    pass
        except OSError as error:
            raise IoError.of(error, "the machine did not answer", path=path) from error
    return _answer(line, path, 1)


def _answer(line: bytes, path: str | None, number: int) -> dict[str, object]:
    """The answer to request `number`, or its error raised; a refusal of the connection itself has no number."""
    try:
        body = json.loads(line)
        if body["id"] not in {number, None}:
            raise ValueError("an answer to something else")
        if body["ok"] is True and isinstance(body["answer"], dict):
            return {str(key): value for key, value in body["answer"].items()}
        kind, message = str(body["error"]["kind"]), str(body["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        what = "it closed the connection" if not line else f"it said {line[:60]!r}"
        raise SourceError(
            f"what listens there does not answer as a machine does: {what}", path=path
        ) from error
    error_class = getattr(vmckpt.errors, kind, VmckptError) if kind in vmckpt.errors.__all__ else VmckptError
    raise error_class(message, path=path)


def _connect(path: str, timeout_s: float, wait_s: float) -> socket.socket:
    """A connection whose operations take `timeout_s` at most."""
    started_s = time.monotonic()
    while True:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout_s)
        try:
            connection.connect(path)
            return connection
        except OSError as error:
            connection.close()
            patience_s = {errno.ENOENT: wait_s, errno.ECONNREFUSED: wait_s, errno.EAGAIN: timeout_s}
            if time.monotonic() - started_s >= patience_s.get(error.errno or 0, 0.0):
                raise _no_machine(error, path) from error
            time.sleep(_RETRY_S)  # not there yet, or busy: that comes with no event to wait for


def _no_machine(error: OSError, path: str) -> VmckptError:
    if error.errno == errno.ECONNREFUSED:
        with contextlib.suppress(OSError):
            if not stat.S_ISSOCK(os.stat(path).st_mode):
                return SourceError("this is no control socket", path=path)
        return IoError("no machine listens at this socket any more", path=path)
    return IoError.of(error, "cannot connect to the control socket", path=path)
