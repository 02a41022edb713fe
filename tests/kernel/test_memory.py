import os

import pytest

from vmckpt.errors import FeatureError, IoError
from vmckpt.kernel import libc
from vmckpt.kernel.memory import Advice, Mapping, address_of, create_memfd, pinned, punch
from vmckpt.layout import PAGE_BYTES

SIZE_BYTES = 4 * PAGE_BYTES


def maps() -> str:
    with open("/proc/self/maps", encoding="ascii") as lines:
        return lines.read()


def test_a_memfd_is_zeros_under_its_name() -> None:
    fd = create_memfd("ram", SIZE_BYTES)
    try:
        assert os.pread(fd, SIZE_BYTES + 1, 0) == bytes(SIZE_BYTES)
        assert os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:ram")
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("size_bytes", [PAGE_BYTES, 2 * SIZE_BYTES])
def test_a_sealed_memfd_keeps_its_length(size_bytes: int) -> None:
    fd = create_memfd("ram", SIZE_BYTES, sealed=True)
    try:
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size_bytes)
        assert os.pwrite(fd, b"x", 0) == 1
    finally:
        os.close(fd)


def test_without_memfd_the_feature_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(FeatureError, match="no memfd"):
        create_memfd("ram", SIZE_BYTES)


def test_a_memfd_of_impossible_size_leaves_nothing_open() -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(IoError, match="cannot make a memfd of -1 bytes"):
        create_memfd("ram", -1)
    assert os.listdir("/proc/self/fd") == before


def test_mappings_of_one_file_share_its_bytes() -> None:
    fd = create_memfd("ram", SIZE_BYTES)
    with Mapping.of_file(fd, SIZE_BYTES) as one, Mapping.of_file(fd, PAGE_BYTES, offset=PAGE_BYTES) as other:
        os.close(fd)
        assert one.address % PAGE_BYTES == other.address % PAGE_BYTES == 0
        with one.view as written, other.view as read:
            written[PAGE_BYTES] = 7
            assert read[0] == 7


def test_a_private_mapping_keeps_its_writes() -> None:
    fd = create_memfd("ram", SIZE_BYTES)
    with Mapping.of_file(fd, SIZE_BYTES, shared=False) as mapping, mapping.view as view:
        view[0] = 7
        assert os.pread(fd, 1, 0) == b"\0"
    os.close(fd)


def test_a_read_only_mapping_gives_a_read_only_view() -> None:
    fd = create_memfd("ram", SIZE_BYTES)
    with Mapping.of_file(fd, SIZE_BYTES, writable=False) as mapping, mapping.view as view:
        assert view.readonly
        assert mapping.address
    os.close(fd)


def test_a_file_that_is_too_short_is_refused() -> None:
    fd = create_memfd("ram", SIZE_BYTES)
    with pytest.raises(IoError, match="cannot map 32768 bytes at offset 0"):
        Mapping.of_file(fd, 2 * SIZE_BYTES)
    os.close(fd)


def test_shared_anonymous_memory_is_common_after_a_fork() -> None:
    with Mapping.anonymous(PAGE_BYTES, shared=True) as mapping, mapping.view as view:
        pid = os.fork()
        if pid == 0:
            view[0] = 9
            os._exit(0)
        os.waitpid(pid, 0)
        assert view[0] == 9


def test_closing_unmaps() -> None:
    fd = create_memfd("to be unmapped", SIZE_BYTES)
    mapping = Mapping.of_file(fd, SIZE_BYTES)
    os.close(fd)
    assert "memfd:to be unmapped" in maps()
    mapping.close()
    assert "memfd:to be unmapped" not in maps()
    with pytest.raises(ValueError, match="closed"):
        mapping.advise(Advice.DONTNEED)


def test_a_mapping_does_not_go_from_under_a_view() -> None:
    mapping = Mapping.anonymous(PAGE_BYTES)
    view = mapping.view
    with pytest.raises(BufferError):
        mapping.close()
    view.release()
    mapping.close()


def test_dontneed_leaves_content_to_the_file_and_remove_takes_it() -> None:
    fd = create_memfd("ram", SIZE_BYTES)
    with Mapping.of_file(fd, SIZE_BYTES) as mapping, mapping.view as view:
        view[:] = b"x" * SIZE_BYTES
        mapping.advise(Advice.DONTNEED)
        assert view[0] == ord("x")
        mapping.advise(Advice.REMOVE, PAGE_BYTES, PAGE_BYTES)
        assert bytes(view[PAGE_BYTES : 2 * PAGE_BYTES]) == bytes(PAGE_BYTES)
        assert view[2 * PAGE_BYTES] == ord("x")
    os.close(fd)


def test_residency_follows_populating_and_removing() -> None:
    fd = create_memfd("ram", SIZE_BYTES)
    with Mapping.of_file(fd, SIZE_BYTES) as mapping:
        assert mapping.resident() == bytes(4)
        mapping.populate(PAGE_BYTES, 2 * PAGE_BYTES, write=True)
        assert mapping.resident() == bytes([0, 1, 1, 0])
        assert mapping.resident(PAGE_BYTES, PAGE_BYTES) == b"\1"
        assert os.fstat(fd).st_blocks * 512 == 2 * PAGE_BYTES
        mapping.advise(Advice.REMOVE, PAGE_BYTES, PAGE_BYTES)
        assert mapping.resident() == bytes([0, 0, 1, 0])
    os.close(fd)


def test_a_page_that_only_another_mapping_has_is_resident() -> None:
    fd = create_memfd("ram", SIZE_BYTES)
    with Mapping.of_file(fd, SIZE_BYTES) as mapping, Mapping.of_file(fd, SIZE_BYTES) as other:
        other.populate(0, PAGE_BYTES, write=True)
        assert mapping.resident() == bytes([1, 0, 0, 0])
    os.close(fd)


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, SIZE_BYTES + 1), (SIZE_BYTES, 1), (2, -1)])
def test_advice_stays_within_the_mapping(start: int, length: int) -> None:
    with Mapping.anonymous(SIZE_BYTES) as mapping:
        with pytest.raises(ValueError, match="outside"):
            mapping.advise(Advice.DONTNEED, start, length)
        with pytest.raises(ValueError, match="outside"):
            mapping.resident(start, length)


def test_advice_that_the_mapping_cannot_take_is_a_missing_feature() -> None:
    with (
        Mapping.anonymous(PAGE_BYTES) as mapping,
        pytest.raises(FeatureError, match="cannot advise REMOVE for 4096 bytes"),
    ):
        mapping.advise(Advice.REMOVE)  # private memory has no file to punch a hole into


@pytest.mark.parametrize(
    "buffer", [b"abc", bytearray(b"abc"), memoryview(b"xxabc")[2:]], ids=["bytes", "bytearray", "view"]
)
def test_an_address_is_where_the_bytes_are(buffer: bytes | bytearray | memoryview) -> None:
    from ctypes import string_at

    assert string_at(address_of(buffer), 3) == b"abc"


def test_a_pinned_buffer_cannot_be_resized() -> None:
    buffer = bytearray(8)
    with pinned(buffer) as (address, size_bytes):
        assert (address, size_bytes) == (address_of(buffer), 8)
        with pytest.raises(BufferError):
            buffer.extend(b"more")
    buffer.extend(b"more")


def test_a_buffer_with_gaps_has_no_address() -> None:
    with pytest.raises(BufferError):
        address_of(memoryview(b"abcdef")[::2])


def test_a_punched_range_gives_its_memory_back_and_is_zero_in_every_mapping() -> None:
    fd = create_memfd("punched", 4 * PAGE_BYTES, sealed=True)
    with (
        Mapping.of_file(fd, 4 * PAGE_BYTES) as one,
        Mapping.of_file(fd, 4 * PAGE_BYTES) as other,
        one.view as mine,
        other.view as theirs,
    ):
        mine[:] = b"x" * len(mine)
        assert os.fstat(fd).st_blocks * 512 == 4 * PAGE_BYTES
        punch(fd, PAGE_BYTES, 2 * PAGE_BYTES)
        assert os.fstat(fd).st_blocks * 512 == 2 * PAGE_BYTES
        expected = b"x" * PAGE_BYTES + bytes(2 * PAGE_BYTES) + b"x" * PAGE_BYTES
        assert bytes(mine) == bytes(theirs) == expected
        assert os.fstat(fd).st_size == 4 * PAGE_BYTES
    os.close(fd)


def test_holes_that_cannot_be_made_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with pytest.raises((IoError, FeatureError), match="cannot make a hole"):
        punch(reading, 0, PAGE_BYTES)
    os.close(reading)
    os.close(writing)
    monkeypatch.setitem(libc._FUNCTIONS, "fallocate", None)
    with pytest.raises(FeatureError, match="cannot make a hole in a file"):
        punch(0, 0, PAGE_BYTES)
