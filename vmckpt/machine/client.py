"""A client of the control socket, for one request: the command `vm` and tests use it.

    ask(path, "pause") ─▶ connect ─▶ {"id": 1, "do": "pause"} ─▶ the machine's answer, or its refusal as an exception

What answers may be no machine at all, so the answer is checked. The protocol is in docs/machine.md.
"""

import contextlib
import errno
import json
import os
import socket
import stat
import time
from collections.abc import Mapping
from types import MappingProxyType

import vmckpt.errors
from vmckpt.errors import IoError, SourceError, VmckptError

__all__ = ["ask"]

_RETRY_S = 0.02


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
    return _answer(line, path)


def _answer(line: bytes, path: str) -> dict[str, object]:
    try:
        body = json.loads(line)
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
