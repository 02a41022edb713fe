"""The one door to the C library: calls that Python itself does not offer, as OSError when they fail.

Calls let go of the interpreter lock while they run. Arguments have declared types: without them ctypes would cut an
address down to a C int.
"""

import ctypes
import errno
import os

__all__ = ["call", "ioctl", "syscall"]

_int, _long, _size, _address = ctypes.c_int, ctypes.c_long, ctypes.c_size_t, ctypes.c_void_p
_PROTOTYPES: dict[str, tuple[type, ...]] = {
    "fallocate": (_int, _int, ctypes.c_int64, ctypes.c_int64),
    "ioctl": (_int, ctypes.c_ulong, _address),
    "madvise": (_address, _size, _int),
    "mincore": (_address, _size, _address),
    "prctl": (_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong),
    "syscall": (_long, _long, _long, _long),
}
_LIBRARY = ctypes.CDLL(None, use_errno=True)


def _bind(name: str) -> object:
    # None where the C library lacks the function (fallocate, prctl and syscall are Linux's own).
    try:
        function = _LIBRARY[name]
    except AttributeError:
        return None
    function.argtypes = _PROTOTYPES[name]
    function.restype = _long if name == "syscall" else _int
    return function


_FUNCTIONS = {name: _bind(name) for name in _PROTOTYPES}
_ioctl = _FUNCTIONS["ioctl"]


def call(name: str, *arguments: object) -> int:
    """Call a function of the C library that answers -1 for failure, and return what it answered.

    Raises:
        OSError: it failed (with its errno), or the C library lacks it (ENOSYS).
    """
    function = _FUNCTIONS[name]
    if not callable(function):
        raise OSError(errno.ENOSYS, f"{os.strerror(errno.ENOSYS)}: the C library has no {name}")
    answer: int = function(*arguments)
    if answer == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return answer


def ioctl(fd: int, request: int, argument: ctypes.Structure | int) -> int:
    """Call ioctl; `argument` is a structure that the kernel reads and writes in place, or a plain number.

    Unlike `fcntl.ioctl`, which on some Pythons copies back on success only, this leaves in the structure what the
    kernel wrote before it failed: the count of a page copy that went half way.

    Raises:
        OSError: it failed.
    """
    # Not through `call`: a fault makes two or three of these while a vCPU waits.
    answer: int = _ioctl(fd, request, argument if isinstance(argument, int) else ctypes.byref(argument))  # type: ignore[operator]  # every C library has it
    if answer == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return answer


def syscall(number: int, first: int = 0, second: int = 0, third: int = 0) -> int:
    """Make a system call that the C library has no function for.

    Raises:
        OSError: it failed.
    """
    return call("syscall", number, first, second, third)
