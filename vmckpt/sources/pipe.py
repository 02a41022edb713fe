"""A stream that cannot seek (a pipe, a FIFO, a socket, a character device), copied to where it can.

In: a descriptor to read to its end. Out: a `SourceFile` over an unlinked temporary file, in which stretches of zeros
are holes. `open_source` calls it and then looks into the file as into any other.
"""

import errno
import os
import tempfile
import time
from collections.abc import Iterator

from vmckpt.errors import IoError
from vmckpt.sources.file import SourceFile

__all__ = ["spool"]

_CHUNK_BYTES = 64 << 10  # the grain of holes
_BUFFER_BYTES = 1 << 20
# Compared as a bytearray: that is a memcmp, whereas a memoryview compares element by element.
_ZERO_CHUNK = bytearray(_CHUNK_BYTES)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def spool(stream_fd: int, name: str) -> SourceFile:
    """Copy the stream to its end; the caller keeps `stream_fd`.

    Raises:
        IoError: the stream cannot be read, or its copy not be written: no temporary directory, or no space there.
    """
    fd = _temporary_file(name)
    try:
        _copy(stream_fd, fd, name)
        # A stream has no state that a later one could be compared with.
        return SourceFile(fd, name, identity=os.urandom(16), modified_ns=time.time_ns())
    except BaseException:
        os.close(fd)
        raise


def _temporary_file(name: str) -> int:
    try:
        with tempfile.TemporaryFile(buffering=0) as file:
            return os.dup(file.fileno())
    except OSError as error:
        raise IoError.of(
            error, "cannot make a temporary file to keep the stream in (TMPDIR says where)", path=name
        ) from error


def _copy(stream_fd: int, fd: int, name: str) -> None:
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    offset = 0
    while count := _fill(stream_fd, buffer, name, offset):
        try:
            for start, end in _data_runs(buffer[:count]):
                _write(fd, buffer[start:end], offset + start)
            offset += count
            os.truncate(fd, offset)  # holes at the end count as well
        except OSError as error:
            raise _write_error(error, name, offset) from error


def _fill(stream_fd: int, buffer: memoryview, name: str, offset: int) -> int:
    """Read until `buffer` is full or the stream ends: a pipe gives little at a time, which would spoil the holes."""
    filled = 0
    while filled < len(buffer):
        try:
            count = os.readv(stream_fd, [buffer[filled:]])
        except OSError as error:
            raise IoError.of(error, "cannot read the stream", path=name, offset=offset + filled) from error
        if not count:
            break
        filled += count
    return filled


def _data_runs(block: memoryview) -> Iterator[tuple[int, int]]:
    """The stretches `(start, end)` of `block` between its chunks of zeros."""
    start = 0
    for chunk in range(0, len(block), _CHUNK_BYTES):
        if _ZERO_CHUNK == block[chunk : chunk + _CHUNK_BYTES]:  # noqa: SIM300 - the left side's comparison is used
            if start < chunk:
                yield start, chunk
            start = chunk + _CHUNK_BYTES
    if start < len(block):
        yield start, len(block)


def _write(fd: int, block: memoryview, offset: int) -> None:
    while block:
        count = os.pwrite(fd, block, offset)
        offset += count
        block = block[count:]


def _write_error(error: OSError, name: str, offset: int) -> IoError:
    where = tempfile.gettempdir()
    advice = f"; set TMPDIR to a directory with more space than {where}" if error.errno in _FULL else ""
    return IoError(
        f"cannot keep the stream in a temporary file in {where}: {error.strerror}{advice}",
        path=name,
        offset=offset,
    )
