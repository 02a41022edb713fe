"""The open file below a raw image or an ELF core: positioned reads, data extents, and whether it changed.

In: a descriptor that can seek. Out: bytes at offsets, and the stretches of the file that are no holes. `raw` and `elf`
make a `SegmentSource` of it.

Reads are `preadv` into the caller's buffer: a mapping of a file that is cut short kills the process with SIGBUS.
After a fork, any number of processes may read through the one descriptor; `data_extents` moves its file position and
so belongs to one process at a time.
"""

import errno
import os
import stat
import struct
from collections.abc import Iterator

from vmckpt.errors import ChangedError, IoError

__all__ = ["SourceFile"]

_IDENTITY = struct.Struct("<QQQq")


class SourceFile:
    """An input file, and what it was when it was opened. Owns its descriptor once it is made."""

    __slots__ = ("_fd", "_mtime_ns", "identity", "modified_ns", "name", "size_bytes")

    def __init__(
        self, fd: int, name: str, *, identity: bytes | None = None, modified_ns: int | None = None
    ) -> None:
        """Take over `fd`; `identity` and `modified_ns` are given for a spooled stream, whose copy has none of its own.

        Raises:
            IoError: the file's state or size cannot be told.
        """
        self.name = name
        size_bytes, status = _state(fd, name)
        self.size_bytes = size_bytes
        self._mtime_ns = status.st_mtime_ns
        self.identity = identity or _IDENTITY.pack(
            status.st_dev, status.st_ino, size_bytes, status.st_mtime_ns
        )
        self.modified_ns = status.st_mtime_ns if modified_ns is None else modified_ns
        self._fd = fd

    def head(self, size_bytes: int) -> bytes:
        """The first `size_bytes` bytes, or as many as there are.

        Raises:
            IoError: the read failed.
            ChangedError: the file was cut short.
        """
        return self.read_bytes(0, min(size_bytes, self.size_bytes))

    def read_bytes(self, offset: int, size_bytes: int) -> bytes:
        """`size_bytes` bytes from `offset` on, which the caller has checked against `size_bytes` of the file.

        Raises:
            IoError: the read failed.
            ChangedError: the file was cut short.
        """
        buffer = bytearray(size_bytes)
        self.read(offset, memoryview(buffer))
        return bytes(buffer)

    def read(self, offset: int, into: memoryview) -> None:
        """Fill `into` from `offset` on.

        Raises:
            IoError: the read failed.
            ChangedError: the file ends before `into` is full.
        """
        while into:
            try:
                count = os.preadv(self._fd, [into], offset)
            except OSError as error:
                raise IoError.of(error, "cannot read", path=self.name, offset=offset) from error
            if not count:
                raise self._cut_short(offset)
            offset += count
            into = into[count:]

    def data_extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The stretches `(low, high)` of the file's bytes `[start, end)` that are no holes, ascending and disjoint.

        Raises:
            IoError: the file's extents cannot be told.
            ChangedError: the file was cut short.
        """
        while start < end:
            try:
                low = os.lseek(self._fd, start, os.SEEK_DATA)
                high = os.lseek(self._fd, low, os.SEEK_HOLE) if low < end else low
            except OSError as error:
                if error.errno == errno.ENXIO:  # only a hole is left, or the file ends before `start`
                    self.check_unchanged()
                    return
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise IoError.of(error, "cannot find holes", path=self.name, offset=start) from error
                low, high = start, end  # a file system without holes
            if low >= end:
                return
            yield low, min(high, end)
            # A file system in user space may answer anything; the walk ends all the same.
            start = max(high, low + 1)

    def check_unchanged(self) -> None:
        """Raise unless the file has the size and the modification time that it had when it was opened.

        Raises:
            ChangedError: it has not.
            IoError: its state cannot be told.
        """
        size_bytes, status = _state(self._fd, self.name)
        if size_bytes != self.size_bytes:
            raise ChangedError(
                f"the size changed while it was read: expected {self.size_bytes} bytes, found {size_bytes}",
                path=self.name,
            )
        if status.st_mtime_ns != self._mtime_ns:
            raise ChangedError(
                "it was written to while it was read: expected modification time "
                f"{self._mtime_ns} ns, found {status.st_mtime_ns} ns",
                path=self.name,
            )

    def detach(self) -> int:
        """Hand the descriptor over to the caller, who closes it from now on."""
        fd, self._fd = self._fd, -1
        return fd

    def close(self) -> None:
        """Close the descriptor; closing twice is fine."""
        if self._fd >= 0:
            os.close(self.detach())

    def _cut_short(self, offset: int) -> ChangedError:
        size_bytes, _ = _state(self._fd, self.name)
        return ChangedError(
            f"it was cut short while it was read: expected {self.size_bytes} bytes, found {size_bytes}",
            path=self.name,
            offset=offset,
        )


def _state(fd: int, name: str) -> tuple[int, os.stat_result]:
    try:
        status = os.fstat(fd)
        # A block device has a st_size of 0.
        regular = stat.S_ISREG(status.st_mode)
        return status.st_size if regular else os.lseek(fd, 0, os.SEEK_END), status
    except OSError as error:
        raise IoError.of(error, "cannot tell its size", path=name) from error
