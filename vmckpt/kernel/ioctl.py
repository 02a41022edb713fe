"""Request numbers of ioctl, from their parts (Linux's asm-generic/ioctl.h).

    bit  31 30 | 29 ........ 16 | 15 .... 8 | 7 .... 0
      direction    argument size      type      number

x86, arm64, riscv and s390 all cut the word so; powerpc, mips and sparc do not, and vmckpt's probes find nothing there.
"""

import ctypes

__all__ = ["none", "read", "read_write", "request"]

_NONE, _WRITE, _READ = 0, 1, 2  # as the program sees it: _READ means that the kernel writes
_SIZE_LIMIT = 1 << 14


def request(direction: int, kind: int, number: int, size_bytes: int) -> int:
    """The request number of these parts.

    Raises:
        ValueError: a part does not fit its bits.
    """
    if not (0 <= direction < 4 and 0 <= kind < 256 and 0 <= number < 256 and 0 <= size_bytes < _SIZE_LIMIT):
        raise ValueError(
            f"no ioctl has direction {direction}, type {kind}, number {number}, {size_bytes} bytes"
        )
    return direction << 30 | size_bytes << 16 | kind << 8 | number


def none(kind: int, number: int) -> int:
    """A request without a structure."""
    return request(_NONE, kind, number, 0)


def read(kind: int, number: int, argument: type[ctypes.Structure]) -> int:
    """A request declared as one that fills the structure."""
    return request(_READ, kind, number, ctypes.sizeof(argument))


def read_write(kind: int, number: int, argument: type[ctypes.Structure]) -> int:
    """A request that reads the structure and writes to it."""
    return request(_READ | _WRITE, kind, number, ctypes.sizeof(argument))
