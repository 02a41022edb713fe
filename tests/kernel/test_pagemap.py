from collections.abc import Callable, Iterator
from ctypes import sizeof

import pytest

from tests.kernel.guest import Guest
from vmckpt.errors import FeatureError, IoError
from vmckpt.kernel.memory import Advice, Mapping
from vmckpt.kernel.pagemap import Category, Pagemap, RunRecord, ScanRequest
from vmckpt.kernel.uffdio import Feature, Mode
from vmckpt.layout import PAGE_BYTES

Needs = Callable[[Feature], None]
Ranges = list[tuple[int, int]]

WP = Feature.PAGEFAULT_FLAG_WP | Feature.WP_HUGETLBFS_SHMEM | Feature.WP_UNPOPULATED
PAGES = 8
EXACT = Category.PRESENT | Category.SWAPPED | Category.FILE


def pages(ranges: Ranges, address: int) -> Ranges:
    return [((start - address) // PAGE_BYTES, (end - address) // PAGE_BYTES) for start, end in ranges]


@pytest.fixture(params=["scan", "entries"])
def scans(request: pytest.FixtureRequest) -> bool:
    """Ask by PAGEMAP_SCAN, or entry by entry as on an older kernel."""
    wanted: bool = request.param == "scan"
    with Pagemap() as pagemap:
        if wanted and not pagemap.scans:
            pytest.skip("this kernel has no PAGEMAP_SCAN")
    return wanted


@pytest.fixture
def scanning() -> None:
    with Pagemap() as pagemap:
        if not pagemap.scans:
            pytest.skip("this kernel has no PAGEMAP_SCAN")


@pytest.fixture
def memory() -> Iterator[Mapping]:
    """Private memory: page 1 read, pages 3 and 4 written."""
    with Mapping.anonymous(PAGES * PAGE_BYTES) as mapping:
        mapping.advise(Advice.NOHUGEPAGE)
        mapping.populate(PAGE_BYTES, PAGE_BYTES)
        mapping.populate(3 * PAGE_BYTES, 2 * PAGE_BYTES, write=True)
        yield mapping


def opened(pid: int | None, scans: bool) -> Pagemap:
    pagemap = Pagemap(pid)
    pagemap.scans = scans
    return pagemap


def test_structures_have_the_kernels_size() -> None:
    assert sizeof(ScanRequest) == 96
    assert sizeof(RunRecord) == 24


def test_pages_that_were_touched_are_present(memory: Mapping, scans: bool) -> None:
    with opened(None, scans) as pagemap:
        found = pagemap.present(memory.address, memory.address + memory.size_bytes)
    assert pages(found, memory.address) == [(1, 2), (3, 5)]


def test_pages_that_were_only_read_are_zero(memory: Mapping, scanning: None) -> None:
    with Pagemap() as pagemap:
        found = pagemap.zero(memory.address, memory.address + memory.size_bytes)
    assert pages(found, memory.address) == [(1, 2)]


def test_without_protection_every_page_counts_as_written(memory: Mapping, scans: bool) -> None:
    with opened(None, scans) as pagemap:
        found = pagemap.written(memory.address, memory.address + memory.size_bytes)
    assert pages(found, memory.address) == [(0, PAGES)]


def test_categories_can_be_asked_for_together(memory: Mapping, scans: bool) -> None:
    end = memory.address + memory.size_bytes
    with opened(None, scans) as pagemap:
        both = list(pagemap.runs(memory.address, end, Category.PRESENT, Category.WRITTEN | Category.PRESENT))
        none = list(pagemap.runs(memory.address, end, Category.PRESENT, Category.FILE))
    assert sum(run.end - run.start for run in both) == 3 * PAGE_BYTES
    assert none == []


def test_more_runs_than_one_answer_holds_are_all_told(scans: bool) -> None:
    count = 3000
    with Mapping.anonymous(count * PAGE_BYTES) as mapping:
        mapping.advise(Advice.NOHUGEPAGE)
        with mapping.view as view:
            for page in range(0, count, 2):
                view[page * PAGE_BYTES] = 1
        with opened(None, scans) as pagemap:
            found = pagemap.present(mapping.address, mapping.address + mapping.size_bytes)
    assert pages(found, mapping.address) == [(page, page + 1) for page in range(0, count, 2)]


def test_a_memfds_page_is_present_only_where_it_is_mapped(scans: bool) -> None:
    with Guest(PAGES) as guest:
        guest.fill(2, 1)  # by this process
        guest.do("write", 5, 1)
        with opened(guest.child, scans) as pagemap:
            found = list(pagemap.runs(guest.address, guest.at(PAGES), Category.PRESENT))
    assert pages([run[:2] for run in found], guest.address) == [(5, 6)]
    assert found[0].categories & EXACT == Category.PRESENT | Category.FILE


def test_another_process_shows_what_it_wrote_since_it_was_protected(needs: Needs, scans: bool) -> None:
    needs(WP | Feature.WP_ASYNC)
    with Guest(PAGES) as guest:
        guest.fill(1, 1)
        uffd = guest.trap(Mode.WP, WP | Feature.WP_ASYNC)
        uffd.write_protect(guest.address, PAGES * PAGE_BYTES, on=True)
        with opened(guest.child, scans) as pagemap:
            assert pagemap.written(guest.address, guest.at(PAGES)) == []
            guest.do("read", 1)
            guest.do("write", 2, 1)  # no trap: the kernel lifts the protection by itself
            guest.do("write", 3, 1)
            found = pagemap.written(guest.address, guest.at(PAGES))
        assert pages(found, guest.address) == [(2, 4)]
        assert uffd.read_events() == []


def test_taking_the_written_pages_protects_them_again(needs: Needs, scanning: None) -> None:
    needs(WP | Feature.WP_ASYNC)
    with Guest(PAGES) as guest:
        uffd = guest.trap(Mode.WP, WP | Feature.WP_ASYNC)
        uffd.write_protect(guest.address, PAGES * PAGE_BYTES, on=True)
        guest.do("write", 2, 1)
        with Pagemap(guest.child) as pagemap:
            assert pages(pagemap.take_written(guest.address, guest.at(PAGES)), guest.address) == [(2, 3)]
            assert pagemap.take_written(guest.address, guest.at(PAGES)) == []
            guest.do("write", 2, 2)
            guest.do("write", 7, 2)
            assert pages(pagemap.take_written(guest.address, guest.at(PAGES)), guest.address) == [
                (2, 3),
                (7, 8),
            ]


def test_a_write_before_dontneed_still_counts(needs: Needs, scans: bool) -> None:
    needs(WP | Feature.WP_ASYNC)
    with Guest(PAGES) as guest:
        uffd = guest.trap(Mode.WP, WP | Feature.WP_ASYNC)
        uffd.write_protect(guest.address, PAGES * PAGE_BYTES, on=True)
        guest.do("write", 2, 1)
        guest.do("advise", Advice.DONTNEED, 0, PAGES)
        with opened(guest.child, scans) as pagemap:
            assert pages(pagemap.written(guest.address, guest.at(PAGES)), guest.address) == [(2, 3)]


def test_a_protected_hole_shows_as_swapped(needs: Needs, scanning: None) -> None:
    needs(WP)
    with Guest(PAGES) as guest:
        uffd = guest.trap(Mode.WP, WP)
        uffd.write_protect(guest.at(3), PAGE_BYTES, on=True)
        with Pagemap(guest.child) as pagemap:
            found = pagemap.present(guest.address, guest.at(PAGES))
        assert pages(found, guest.address) == [(3, 4)]


def test_pages_are_taken_only_from_what_the_kernel_traces(memory: Mapping, scanning: None) -> None:
    with Pagemap() as pagemap, pytest.raises(IoError, match=r"pagemap: cannot take the written pages"):
        pagemap.take_written(memory.address, memory.address + memory.size_bytes)


def test_an_older_kernel_says_what_it_cannot_tell(memory: Mapping) -> None:
    with opened(None, scans=False) as pagemap:
        with pytest.raises(FeatureError, match="PFNZERO"):
            pagemap.zero(memory.address, memory.address + PAGE_BYTES)
        with pytest.raises(FeatureError, match="cannot protect"):
            pagemap.take_written(memory.address, memory.address + PAGE_BYTES)


def test_a_process_that_is_not_there_is_an_error() -> None:
    with pytest.raises(IoError, match=r"/proc/0/pagemap: cannot look at a process's pages"):
        Pagemap(0)


def test_a_process_that_has_ended_is_an_error(scans: bool) -> None:
    with Guest(PAGES) as guest:
        guest.do("write", 0, 1)
        with opened(guest.child, scans) as pagemap:
            guest.kill()
            with pytest.raises(IoError, match="cannot look at a process's pages"):
                pagemap.present(guest.address, guest.at(PAGES))
