import struct
from ctypes import Structure, sizeof

import pytest

from vmckpt.errors import IoError
from vmckpt.kernel import uffdio
from vmckpt.kernel.faults import Event, EventKind, FaultFlag


@pytest.mark.parametrize(
    ("kind", "size_bytes"),
    [
        pytest.param(uffdio.Api, 24, id="uffdio_api"),
        pytest.param(uffdio.Range, 16, id="uffdio_range"),
        pytest.param(uffdio.Register, 32, id="uffdio_register"),
        pytest.param(uffdio.Copy, 40, id="uffdio_copy"),
        pytest.param(uffdio.Fill, 32, id="uffdio_zeropage-continue-poison"),
        pytest.param(uffdio.WriteProtect, 24, id="uffdio_writeprotect"),
    ],
)
def test_structures_have_the_kernels_size(kind: type[Structure], size_bytes: int) -> None:
    assert sizeof(kind) == size_bytes


def test_a_message_has_the_kernels_size() -> None:
    assert uffdio.MESSAGE_BYTES == 32


def message(kind: int, first: int, second: int, third: int = 0) -> bytes:
    return struct.pack("=B7xQQI4x", kind, first, second, third)


def test_messages_become_events_in_their_order() -> None:
    flags = FaultFlag.WRITE | FaultFlag.WP
    fault, remove, unmap = uffdio.events_in(
        message(0x12, flags, 0x7000, 99) + message(0x15, 0x1000, 0x3000) + message(0x16, 0x4000, 0x5000)
    )
    assert fault == Event(EventKind.FAULT, 0x7000, 0x7000, flags, 99)
    assert (fault.write, fault.wp, fault.minor) == (True, True, False)
    assert remove == Event(EventKind.REMOVE, 0x1000, 0x3000, 0, 0)
    assert unmap == Event(EventKind.UNMAP, 0x4000, 0x5000, 0, 0)


def test_no_message_is_no_event() -> None:
    assert uffdio.events_in(b"") == []


@pytest.mark.parametrize("size_bytes", [1, 31, 33])
def test_half_a_message_is_refused(size_bytes: int) -> None:
    with pytest.raises(IoError, match=f"{size_bytes} bytes, no multiple of 32"):
        uffdio.events_in(bytes(size_bytes))


@pytest.mark.parametrize("kind", [0, 0x13, 0x14, 0x17, 0xFF])
def test_an_event_nobody_asked_for_is_refused(kind: int) -> None:
    with pytest.raises(IoError, match=f"of kind {kind:#x}"):
        uffdio.events_in(message(kind, 0, 0))
