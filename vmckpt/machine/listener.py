"""The socket file that a control server listens at: made private, never somebody else's, gone at the end.

nothing there ─▶ bind        stale: nobody listens ─▶ replace        a machine listens, or it is no socket ─▶ refuse
"""

import contextlib
import errno
import os
import socket
import stat

from vmckpt.errors import IoError, UsageError

__all__ = ["Listener"]

_BACKLOG = 32
_MOST_PATH_BYTES = 107
_PROBE_S = 1.0


class Listener:
    """A UNIX stream socket with a name, mode 0600, that does not block."""

    def __init__(self, path: str) -> None:
        """Make the socket; raises what `ControlServer` does."""
        self._path = path
        if len(os.fsencode(path)) > _MOST_PATH_BYTES:
            raise UsageError(
                f"the path of the control socket is too long: expected {_MOST_PATH_BYTES} bytes at most, found "
                f"{len(os.fsencode(path))}; a relative one may do",
                path=path,
            )
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._bind()
            self._identity = _identity(path)
            self._socket.listen(_BACKLOG)
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """The descriptor, to poll; -1 once closed."""
        return self._socket.fileno()

    def accept(self) -> socket.socket | None:
        """The next connection, which does not block either; None where there is none after all."""
        try:
            connection, _ = self._socket.accept()
        except OSError:  # gone again, or this process has no descriptor left: the machine goes on
            return None
        connection.setblocking(False)
        return connection

    def close(self) -> None:
        """Remove the socket, unless somebody else has put another one there since, and close it."""
        with contextlib.suppress(OSError):
            if _identity(self._path) == self._identity:
                os.unlink(self._path)
        self._socket.close()

    def _bind(self) -> None:
        mask = os.umask(0o177)
        try:
            try:
                self._socket.bind(self._path)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                _remove_stale(self._path)
                self._socket.bind(self._path)
        except OSError as error:
            raise IoError.of(error, "cannot make the control socket", path=self._path) from error
        finally:
            os.umask(mask)


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens at."""
    status = os.lstat(path)
    if not stat.S_ISSOCK(status.st_mode):
        raise IoError("cannot make the control socket: something that is no socket has this name", path=path)
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.settimeout(_PROBE_S)
            probe.connect(path)
        except ConnectionRefusedError:
            if _identity(path) == (status.st_dev, status.st_ino):
                os.unlink(path)
            return
        except OSError as error:
            raise IoError.of(
                error, "cannot tell whether a machine listens at this socket", path=path
            ) from error
    raise IoError("a machine listens at this socket already", path=path)
