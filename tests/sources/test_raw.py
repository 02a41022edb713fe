"""Raw images: what is read, which ranges are data, and what happens when the file changes underneath."""

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings

from tests.support.memory import brute_ranges_hold, page_bytes, page_maps, pages_of, read_all, write_sparse
from vmckpt.errors import ChangedError, IoError, SourceError
from vmckpt.layout import Layout
from vmckpt.pages import PAGE_BYTES, PageRange
from vmckpt.sources import open_source
from vmckpt.sources.segments import SegmentSource

NUMBERS = [1, 2, 0, 0, 0, 6, 7, 0]


@pytest.fixture
def image(tmp_path: Path) -> str:
    return write_sparse(tmp_path / "image", pages_of(NUMBERS))


def test_a_raw_image_is_one_region_from_address_zero(image: str) -> None:
    with contextlib.closing(open_source(image)) as source:
        assert (source.kind, source.name) == ("raw", image)
        assert source.layout == Layout.flat(len(NUMBERS) * PAGE_BYTES)


def test_leaving_the_context_closes_the_descriptor(image: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    source = open_source(image)
    assert isinstance(source, SegmentSource)
    with source as same:
        assert same is source
        assert len(os.listdir("/proc/self/fd")) == before + 1
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("start", range(len(NUMBERS) + 1))
def test_every_range_from_here_reads_its_own_pages(image: str, start: int) -> None:
    source = open_source(image)
    for end in range(start, len(NUMBERS) + 1):
        into = bytearray(b"x" * (end - start) * PAGE_BYTES)
        source.read(PageRange(start, end), memoryview(into))
        assert into == pages_of(NUMBERS[start:end])
    source.close()


@settings(max_examples=30, deadline=None)
@given(numbers=page_maps())
def test_every_page_outside_the_data_ranges_is_zero(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int]
) -> None:
    content = pages_of(numbers)
    source = open_source(write_sparse(tmp_path_factory.mktemp("raw") / "image", content))
    assert read_all(source) == content
    assert brute_ranges_hold(source, content)
    source.close()


def test_holes_are_left_out_of_the_data_ranges(tmp_path: Path) -> None:
    content = bytes(64 * PAGE_BYTES) + page_bytes(1) + bytes(63 * PAGE_BYTES)
    source = open_source(write_sparse(tmp_path / "image", content, grain_bytes=64 * PAGE_BYTES))
    ranges = list(source.data_ranges())
    source.close()
    if ranges == [(0, 128)]:
        pytest.skip("the file system of the temporary directory has no holes")
    assert ranges == [(64, 128)]


def test_a_file_of_nothing_but_a_hole_has_no_data(tmp_path: Path) -> None:
    source = open_source(write_sparse(tmp_path / "image", bytes(16 * PAGE_BYTES)))
    ranges = list(source.data_ranges())
    source.close()
    assert ranges in ([], [(0, 16)])


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EOPNOTSUPP], ids=["EINVAL", "EOPNOTSUPP"])
def test_without_seek_data_everything_is_data(
    image: str, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    source = open_source(image)
    monkeypatch.setattr(os, "lseek", _refusing(error))
    assert list(source.data_ranges()) == [(0, len(NUMBERS))]
    source.close()


def test_a_failing_seek_is_an_io_error(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(image)
    monkeypatch.setattr(os, "lseek", _refusing(errno.EIO))
    with pytest.raises(IoError, match="cannot find holes: Input/output error"):
        list(source.data_ranges())
    source.close()


def test_extents_that_are_no_whole_pages_are_rounded_outward_and_joined(
    image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file system with blocks of 1 KiB: data in [1K, 2K), [3K, 9K) and [20K, 21K).
    extents = [(1024, 2048), (3072, 9216), (20480, 21504)]
    source = open_source(image)
    monkeypatch.setattr(os, "lseek", _seeking(extents))
    assert list(source.data_ranges()) == [(0, 3), (5, 6)]
    source.close()


def test_short_reads_are_continued(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, into, offset: real(fd, [into[0][:1000]], offset))
    source = open_source(image)
    assert read_all(source) == pages_of(NUMBERS)
    source.close()


def test_a_failing_read_is_an_io_error_with_its_offset(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(image)
    monkeypatch.setattr(os, "preadv", _refusing(errno.EIO))
    with pytest.raises(IoError, match="cannot read: Input/output error") as caught:
        source.read(PageRange(2, 3), memoryview(bytearray(PAGE_BYTES)))
    assert (caught.value.path, caught.value.offset) == (image, 2 * PAGE_BYTES)
    source.close()


@pytest.mark.parametrize(
    ("pages", "size_bytes"),
    [
        (PageRange(0, 9), 9 * PAGE_BYTES),
        (PageRange(-1, 1), 2 * PAGE_BYTES),
        (PageRange(2, 1), 0),
        (PageRange(0, 2), PAGE_BYTES),
    ],
    ids=["past the end", "before the start", "backward", "another size"],
)
def test_a_read_of_what_is_not_there_is_refused(image: str, pages: PageRange, size_bytes: int) -> None:
    source = open_source(image)
    with pytest.raises(ValueError, match="cannot read pages"):
        source.read(pages, memoryview(bytearray(size_bytes)))
    source.close()


def test_reading_a_file_that_was_cut_short_says_expected_and_found(image: str) -> None:
    source = open_source(image)
    os.truncate(image, 3 * PAGE_BYTES + 100)
    with pytest.raises(ChangedError, match="expected 32768 bytes, found 12388") as caught:
        read_all(source)
    assert caught.value.exit_code == 1
    source.close()


def test_data_ranges_of_a_file_that_was_cut_short_do_not_end_in_silence(image: str) -> None:
    source = open_source(image)
    os.truncate(image, 0)
    with pytest.raises(ChangedError, match="expected 32768 bytes, found 0"):
        list(source.data_ranges())
    source.close()


def test_an_untouched_file_is_unchanged(image: str) -> None:
    source = open_source(image)
    read_all(source)
    source.check_unchanged()
    source.close()


def _grow(path: str) -> None:
    os.truncate(path, 100 * PAGE_BYTES)


def _touch(path: str) -> None:
    os.utime(path, ns=(1, 1_000_000_007))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_grow, "the size changed while it was read: expected 32768 bytes, found 409600"),
        (_touch, r"expected modification time \d+ ns, found 1000000007 ns"),
    ],
    ids=["size", "time"],
)
def test_a_changed_file_is_noticed(image: str, change: Callable[[str], None], message: str) -> None:
    source = open_source(image)
    change(image)
    with pytest.raises(ChangedError, match=message) as caught:
        source.check_unchanged()
    assert caught.value.path == image
    source.close()


def test_the_identity_follows_the_state_of_the_file(image: str, tmp_path: Path) -> None:
    os.utime(image, ns=(1, 5_000_000_000))
    identities: list[bytes] = []
    for path in (image, image, write_sparse(tmp_path / "other", pages_of(NUMBERS)), image):
        if len(identities) == 3:
            _touch(image)
        source = open_source(path)
        identities.append(source.identity)
        source.close()
    assert identities[0] == identities[1]
    assert len(set(identities)) == 3


def test_the_modification_time_is_the_files(image: str) -> None:
    os.utime(image, ns=(1, 1_234_567_890_123))
    source = open_source(image)
    assert source.modified_ns == 1_234_567_890_123
    source.close()


def test_several_processes_read_through_one_descriptor(image: str) -> None:
    source = open_source(image)
    children = []
    for page in range(len(NUMBERS)):
        child = os.fork()
        if not child:
            into = bytearray(PAGE_BYTES)
            source.read(PageRange(page, page + 1), memoryview(into))
            os._exit(into != page_bytes(NUMBERS[page]))
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(children)
    source.close()


def test_closing_gives_the_descriptor_back_and_may_be_repeated(image: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    source = open_source(image)
    source.close()
    source.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("size_bytes", "message"),
    [
        (0, "it is empty: expected 4096 bytes or a multiple, found 0"),
        (1, "expected a multiple of 4096 bytes, found 1, 1 too many"),
        (4095, "expected a multiple of 4096 bytes, found 4095, 4095 too many"),
        (8193, "expected a multiple of 4096 bytes, found 8193, 1 too many"),
    ],
    ids=str,
)
def test_a_size_that_is_no_whole_number_of_pages_is_refused(
    tmp_path: Path, size_bytes: int, message: str
) -> None:
    path = write_sparse(tmp_path / "image", b"x" * size_bytes)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SourceError, match=message) as caught:
        open_source(path)
    assert (caught.value.path, caught.value.exit_code) == (path, 3)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_sparse_image_larger_than_any_memory_is_opened_at_once(tmp_path: Path) -> None:
    size_bytes = 8 << 40
    path = tmp_path / "image"
    path.touch()
    try:
        os.truncate(path, size_bytes)
    except OSError:
        pytest.skip("the file system of the temporary directory has no files of 8 TiB")
    source = open_source(str(path))
    assert source.layout.page_count == size_bytes // PAGE_BYTES
    assert list(source.data_ranges()) == []
    source.close()


def _refusing(error: int) -> Callable[..., int]:
    def refuse(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    return refuse


def _seeking(extents: list[tuple[int, int]]) -> Callable[[int, int, int], int]:
    """An lseek of a file with data in `extents`; the end of the file counts as a hole."""

    def lseek(_fd: int, offset: int, whence: int) -> int:
        if whence == os.SEEK_DATA:
            found = [max(low, offset) for low, high in extents if high > offset]
            if not found:
                raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
            return found[0]
        assert whence == os.SEEK_HOLE
        inside = [high for low, high in extents if low <= offset < high]
        return inside[0] if inside else offset

    return lseek
