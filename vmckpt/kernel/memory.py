"""Memory as the kernel sees it: memfds, mappings, advice about them, and the addresses of Python's buffers.

    memfd ─▶ Mapping (address, view) ─▶ advise, populate, resident ─▶ close

A memfd is shared by mapping it in several processes; each mapping is traced on its own (`userfaultfd`).
"""

import ctypes
import errno
import fcntl
import mmap
import os
from contextlib import AbstractContextManager
from enum import IntEnum
from types import TracebackType
from typing import ClassVar, Self

from vmckpt.errors import FeatureError, IoError
from vmckpt.kernel import libc
from vmckpt.pages import Buffer

__all__ = ["Advice", "Mapping", "address_of", "create_memfd", "pinned", "punch"]


class Advice(IntEnum):
    """What to do with a range of a mapping: Linux's numbers, of which `mmap` lacks the later ones."""

    DONTNEED = 4
    """Drop the mapping's pages; a memfd keeps the content."""
    REMOVE = 9
    """Drop the content too: punch a hole into the memfd."""
    DONTFORK = 10
    MERGEABLE = 12
    UNMERGEABLE = 13
    HUGEPAGE = 14
    NOHUGEPAGE = 15
    DONTDUMP = 16
    COLD = 20
    PAGEOUT = 21
    POPULATE_READ = 22
    POPULATE_WRITE = 23
    COLLAPSE = 25


def create_memfd(name: str, size_bytes: int, *, sealed: bool = False) -> int:
    """A file in memory, all zeros, and its descriptor; `name` shows in /proc.

    Args:
        name: what /proc/PID/maps calls it, after `memfd:`.
        size_bytes: its length.
        sealed: nobody can change its length any more, so no mapping of it ever ends in SIGBUS.

    Raises:
        FeatureError: this system has none.
        IoError: the kernel refused.
    """
    if not hasattr(os, "memfd_create"):
        raise FeatureError("cannot make memory to share between processes: this system has no memfd")
    try:
        fd = os.memfd_create(name, os.MFD_CLOEXEC | (os.MFD_ALLOW_SEALING if sealed else 0))
    except OSError as error:
        raise IoError.of(error, f"cannot make a memfd of {size_bytes} bytes") from error
    try:
        _set_length(fd, size_bytes)
        if sealed:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError as error:
        os.close(fd)
        raise IoError.of(error, f"cannot make a memfd of {size_bytes} bytes") from error
    return fd


_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2


def punch(fd: int, start_bytes: int, length_bytes: int) -> None:
    """Give the memory of a range of a file back, which is a hole then and reads as zeros, in every mapping of it too.

    Raises:
        FeatureError: its file system cannot do that.
        IoError: the kernel refused.
    """
    mode = _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE
    try:
        libc.call("fallocate", fd, mode, start_bytes, length_bytes)
    except OSError as error:
        if error.errno in {errno.EOPNOTSUPP, errno.ENOSYS}:
            raise FeatureError(f"cannot make a hole in a file: {error.strerror}") from error
        raise IoError.of(error, f"cannot make a hole of {length_bytes} bytes", offset=start_bytes) from error


def _set_length(fd: int, size_bytes: int) -> None:
    try:
        os.ftruncate(fd, size_bytes)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise OSError(
                errno.EFBIG, "the limit on the size of files (`ulimit -f`) holds for it as well"
            ) from error
        raise


class Mapping:
    """A mapping in this process, unmapped by `close`.

    Attributes:
        address: host address of its first byte.
        size_bytes: its length.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        """Take over a writable mapping made by `mmap`; see `of_file` and `anonymous`."""
        self._memory = memory
        self.size_bytes = len(memory)
        with pinned(memory) as (address, _):
            self.address = address

    @classmethod
    def of_file(
        cls, fd: int, size_bytes: int, *, offset: int = 0, shared: bool = True, writable: bool = True
    ) -> Self:
        """Map `size_bytes` of a file from `offset`, which may be closed afterwards.

        Raises:
            IoError: the file cannot be mapped, or is shorter.
        """
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        flags = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
        try:
            return cls(mmap.mmap(fd, size_bytes, flags, access, offset=offset))
        except (OSError, ValueError) as error:
            raise IoError(f"cannot map {size_bytes} bytes at offset {offset}: {error}") from error

    @classmethod
    def anonymous(cls, size_bytes: int, *, shared: bool = False) -> Self:
        """Map zeros; `shared` ones stay common to this process and those it forks.

        Raises:
            IoError: the kernel refused.
        """
        flags = mmap.MAP_ANONYMOUS | (mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE)
        try:
            return cls(mmap.mmap(-1, size_bytes, flags))
        except (OSError, ValueError) as error:
            raise IoError(f"cannot map {size_bytes} bytes of memory: {error}") from error

    @property
    def view(self) -> memoryview:
        """A new view of the bytes; release it before `close`."""
        return memoryview(self._memory)

    def advise(self, advice: Advice, start_bytes: int = 0, length_bytes: int | None = None) -> None:
        """Advise the kernel about a range, all of the mapping unless told; it begins on a page.

        Where remove events are traced, DONTNEED and REMOVE wait until the event is read. The interpreter lock is let
        go meanwhile, which `mmap.madvise` does not promise.

        Raises:
            FeatureError: this kernel does not know the advice, or not for such a mapping.
            IoError: the kernel refused.
            ValueError: the range is not in the mapping.
        """
        length_bytes = self.size_bytes - start_bytes if length_bytes is None else length_bytes
        self._check(start_bytes, length_bytes)
        try:
            libc.call("madvise", self.address + start_bytes, length_bytes, int(advice))
        except OSError as error:
            what = f"cannot advise {advice.name} for {length_bytes} bytes of memory"
            if error.errno == errno.EINVAL:
                raise FeatureError(f"{what}: this kernel cannot do that with this mapping") from error
            raise IoError.of(error, what) from error

    def populate(self, start_bytes: int = 0, length_bytes: int | None = None, *, write: bool = False) -> None:
        """Map every page of a range now; with `write`, holes of its file become pages.

        Raises:
            FeatureError: this kernel cannot (before 5.14).
            IoError: there is no memory for it.
            ValueError: the range is not in the mapping.
        """
        self.advise(Advice.POPULATE_WRITE if write else Advice.POPULATE_READ, start_bytes, length_bytes)

    def resident(self, start_bytes: int = 0, length_bytes: int | None = None) -> bytes:
        """One byte for each of the kernel's pages in a range: 1 where the kernel holds it in memory, mapped here or not (mincore).

        A page that was swapped out counts as not resident, so this never tells which pages hold zeros.

        Raises:
            IoError: the kernel refused.
            ValueError: the range is not in the mapping.
        """
        length_bytes = self.size_bytes - start_bytes if length_bytes is None else length_bytes
        self._check(start_bytes, length_bytes)
        flags = (ctypes.c_ubyte * -(-length_bytes // mmap.PAGESIZE))()
        try:
            libc.call("mincore", self.address + start_bytes, length_bytes, ctypes.byref(flags))
        except OSError as error:
            raise IoError.of(error, "cannot ask which pages are resident") from error
        return bytes(flag & 1 for flag in flags)

    def _check(self, start_bytes: int, length_bytes: int) -> None:
        if self._memory.closed:
            raise ValueError("the mapping is closed")
        if not 0 <= start_bytes <= start_bytes + length_bytes <= self.size_bytes:
            raise ValueError(
                f"[{start_bytes}, {start_bytes + length_bytes}) is outside {self.size_bytes} bytes"
            )

    def close(self) -> None:
        """Unmap it.

        Raises:
            BufferError: a view of it was not released.
        """
        self._memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Export(ctypes.Structure):
    # CPython's Py_buffer, part of its stable interface since 3.11.
    _fields_: ClassVar = (
        ("address", ctypes.c_void_p),
        ("owner", ctypes.c_void_p),
        ("size_bytes", ctypes.c_ssize_t),
        ("item_bytes", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("dimensions", ctypes.c_int),
        ("format", ctypes.c_void_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )
    address: int | None
    size_bytes: int


_EXPORT_SIMPLE = 0  # bytes side by side, read-only ones as well: ctypes' own from_buffer wants writable ones
_get_export = ctypes.pythonapi.PyObject_GetBuffer
_get_export.argtypes = (ctypes.py_object, ctypes.c_void_p, ctypes.c_int)
_get_export.restype = ctypes.c_int
_release_export = ctypes.pythonapi.PyBuffer_Release
_release_export.argtypes = (ctypes.c_void_p,)
_release_export.restype = None


class _Pinned:
    # A context of its own: one made of a generator takes 1 µs more, and one is entered for every answer to a fault.
    __slots__ = ("_buffer", "_export")

    def __init__(self, buffer: Buffer | mmap.mmap) -> None:
        self._buffer = buffer

    def __enter__(self) -> tuple[int, int]:
        export = self._export = _Export()
        _get_export(self._buffer, ctypes.byref(export), _EXPORT_SIMPLE)
        return export.address or 0, export.size_bytes

    def __exit__(self, *_: object) -> None:
        _release_export(ctypes.byref(self._export))


def pinned(buffer: Buffer | mmap.mmap) -> AbstractContextManager[tuple[int, int]]:
    """The address and length of a buffer's bytes, which can neither move nor go until the context is left.

    Raises:
        BufferError: its bytes do not lie side by side.
    """
    return _Pinned(buffer)


def address_of(buffer: Buffer | mmap.mmap) -> int:
    """The address of a buffer's first byte, good for as long as the caller keeps the buffer and its length.

    Raises:
        BufferError: its bytes do not lie side by side.
    """
    with pinned(buffer) as (address, _):
        return address
