import errno
import os
import struct
from ctypes import Structure, c_int
from typing import ClassVar

import pytest

from vmckpt.kernel import libc

FIONREAD = 0x541B


class Count(Structure):
    _fields_: ClassVar = (("value", c_int),)
    value: int


def test_a_call_that_fails_raises_its_errno() -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)) as caught:
        libc.call("madvise", 1, 1, 4)
    assert caught.value.errno == errno.EINVAL


def test_a_function_that_the_library_lacks_is_enosys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(libc._FUNCTIONS, "prctl", None)
    with pytest.raises(OSError, match="has no prctl") as caught:
        libc.call("prctl", 0, 0, 0, 0, 0)
    assert caught.value.errno == errno.ENOSYS


def test_an_ioctl_fills_its_structure() -> None:
    reading, writing = os.pipe()
    try:
        os.write(writing, struct.pack("=I", 7))
        count = Count()
        libc.ioctl(reading, FIONREAD, count)
        assert count.value == 4
    finally:
        os.close(reading)
        os.close(writing)


def test_an_address_is_not_cut_to_an_int() -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENOMEM)):
        libc.call("madvise", 1 << 46, 4096, 4)  # nothing is mapped there; its low half is 0


def test_an_unknown_system_call_is_enosys() -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENOSYS)):
        libc.syscall(9999)
