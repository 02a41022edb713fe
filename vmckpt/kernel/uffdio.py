"""The raw side of userfaultfd: structures, request numbers, feature bits, messages (Linux's linux/userfaultfd.h).

Layouts are those of every 64-bit Linux. Sizes and numbers are asserted in the tests.
"""

import struct
from ctypes import Structure, c_int64, c_uint64
from enum import IntFlag
from typing import ClassVar

from vmckpt.errors import IoError
from vmckpt.kernel import ioctl
from vmckpt.kernel.faults import Event, EventKind

__all__ = [
    "API",
    "API_VERSION",
    "CONTINUE",
    "COPY",
    "FILL_DONT_WAKE",
    "FILL_WP",
    "MESSAGE_BYTES",
    "NEW",
    "POISON",
    "PROTECT",
    "PROTECT_DONT_WAKE",
    "REGISTER",
    "UNREGISTER",
    "USER_MODE_ONLY",
    "WAKE",
    "WRITEPROTECT",
    "ZEROPAGE",
    "Api",
    "Copy",
    "Feature",
    "Fill",
    "Mode",
    "Range",
    "Register",
    "WriteProtect",
    "events_in",
]

API_VERSION = 0xAA
USER_MODE_ONLY = 1
"""Flag of the system call: faults that the kernel takes on the process's behalf are not trapped, and fail there."""
_TYPE = 0xAA


class Feature(IntFlag):
    """What a kernel's userfaultfd can do, and what a descriptor is asked to do."""

    PAGEFAULT_FLAG_WP = 1 << 0
    EVENT_FORK = 1 << 1
    EVENT_REMAP = 1 << 2
    EVENT_REMOVE = 1 << 3
    MISSING_HUGETLBFS = 1 << 4
    MISSING_SHMEM = 1 << 5
    EVENT_UNMAP = 1 << 6
    SIGBUS = 1 << 7
    THREAD_ID = 1 << 8
    MINOR_HUGETLBFS = 1 << 9
    MINOR_SHMEM = 1 << 10
    EXACT_ADDRESS = 1 << 11
    WP_HUGETLBFS_SHMEM = 1 << 12
    WP_UNPOPULATED = 1 << 13
    POISON = 1 << 14
    WP_ASYNC = 1 << 15
    MOVE = 1 << 16


class Mode(IntFlag):
    """Which touches of a registered range trap."""

    MISSING = 1
    """Any touch of a page that neither the mapping nor its file has."""
    WP = 2
    """A write to a page that is write-protected."""
    MINOR = 4
    """Any touch of a page that the file has and the mapping has not."""


FILL_DONT_WAKE = 1
"""Mode bit of every request that fills pages."""
FILL_WP = 2
"""Mode bit of copy and continue: the pages are write-protected."""
PROTECT = 1
"""Mode bit of write-protect: set the protection instead of lifting it."""
PROTECT_DONT_WAKE = 2
"""Mode bit of write-protect, only to lift."""


class Api(Structure):
    """`struct uffdio_api`: the handshake."""

    _fields_: ClassVar = (("api", c_uint64), ("features", c_uint64), ("ioctls", c_uint64))
    api: int
    features: int
    ioctls: int


class Range(Structure):
    """`struct uffdio_range`: bytes from `start`."""

    _fields_: ClassVar = (("start", c_uint64), ("length", c_uint64))
    start: int
    length: int


class Register(Structure):
    """`struct uffdio_register`; the kernel sets bit n of `ioctls` where request n works on the range."""

    _fields_: ClassVar = (("start", c_uint64), ("length", c_uint64), ("mode", c_uint64), ("ioctls", c_uint64))
    start: int
    length: int
    mode: int
    ioctls: int


class Copy(Structure):
    """`struct uffdio_copy`; `done` is the bytes copied, or a negative errno."""

    _fields_: ClassVar = (
        ("dst", c_uint64),
        ("src", c_uint64),
        ("length", c_uint64),
        ("mode", c_uint64),
        ("done", c_int64),
    )
    dst: int
    src: int
    length: int
    mode: int
    done: int


class Fill(Structure):
    """`struct uffdio_zeropage`, `uffdio_continue` and `uffdio_poison`, which are laid out alike."""

    _fields_: ClassVar = (("start", c_uint64), ("length", c_uint64), ("mode", c_uint64), ("done", c_int64))
    start: int
    length: int
    mode: int
    done: int


class WriteProtect(Structure):
    """`struct uffdio_writeprotect`."""

    _fields_: ClassVar = (("start", c_uint64), ("length", c_uint64), ("mode", c_uint64))
    start: int
    length: int
    mode: int


NEW = ioctl.none(_TYPE, 0x00)
"""On /dev/userfaultfd: a new descriptor."""
API = ioctl.read_write(_TYPE, 0x3F, Api)
REGISTER = ioctl.read_write(_TYPE, 0x00, Register)
UNREGISTER = ioctl.read(_TYPE, 0x01, Range)
WAKE = ioctl.read(_TYPE, 0x02, Range)
COPY = ioctl.read_write(_TYPE, 0x03, Copy)
ZEROPAGE = ioctl.read_write(_TYPE, 0x04, Fill)
WRITEPROTECT = ioctl.read_write(_TYPE, 0x06, WriteProtect)
CONTINUE = ioctl.read_write(_TYPE, 0x07, Fill)
POISON = ioctl.read_write(_TYPE, 0x08, Fill)

#   struct uffd_msg    0        8                16               24              32
#   fault              kind     flags            address          thread   -
#   remove, unmap      kind     start            end              -
_MESSAGE = struct.Struct("=B7xQQI4x")
MESSAGE_BYTES = _MESSAGE.size
_KINDS = {kind.value: kind for kind in EventKind}


def events_in(messages: bytes) -> list[Event]:
    """The events of what a read of the descriptor returned.

    Raises:
        IoError: the bytes are not whole messages, or one is of a kind that vmckpt never asks for.
    """
    if len(messages) % MESSAGE_BYTES:
        raise IoError(f"userfaultfd gave {len(messages)} bytes, no multiple of {MESSAGE_BYTES}")
    events = []
    for number, first, second, third in _MESSAGE.iter_unpack(messages):
        kind = _KINDS.get(number)
        if kind is None:
            raise IoError(
                f"userfaultfd reported an event of kind {number:#x}: expected {sorted(map(hex, _KINDS))}"
            )
        if kind is EventKind.FAULT:
            events.append(Event(kind, second, second, first, third))
        else:
            events.append(Event(kind, first, second, 0, 0))
    return events
