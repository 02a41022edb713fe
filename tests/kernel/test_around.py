"""Which pages a mapping gets that nobody touched, and what a second registration changes."""

import os
from collections.abc import Callable, Iterator

import pytest

from vmckpt.kernel.memory import Mapping, create_memfd
from vmckpt.kernel.pagemap import Category, Pagemap
from vmckpt.kernel.uffdio import Feature, Mode
from vmckpt.kernel.userfaultfd import Userfaultfd
from vmckpt.layout import PAGE_BYTES

PAGES = 64
NEEDED = Feature.MISSING_SHMEM | Feature.PAGEFAULT_FLAG_WP | Feature.WP_HUGETLBFS_SHMEM
Needs = Callable[[Feature], None]


@pytest.fixture
def mapping(needs: Needs) -> Iterator[Mapping]:
    needs(NEEDED)
    fd = create_memfd("around", PAGES * PAGE_BYTES)
    os.pwrite(fd, b"x" * PAGES * PAGE_BYTES, 0)
    with Mapping.of_file(fd, PAGES * PAGE_BYTES) as mapping:
        os.close(fd)
        yield mapping


def mapped(mapping: Mapping) -> set[int]:
    with Pagemap() as pagemap:
        runs = pagemap.runs(mapping.address, mapping.address + mapping.size_bytes, Category.PRESENT)
        return {
            page
            for run in runs
            for page in range(
                (run.start - mapping.address) // PAGE_BYTES, (run.end - mapping.address) // PAGE_BYTES
            )
        }


def touch(mapping: Mapping, page: int) -> None:
    with mapping.view as view:
        assert view[page * PAGE_BYTES] == ord("x")


def test_pages_around_a_touched_one_are_mapped_too(mapping: Mapping) -> None:
    with Userfaultfd.open(NEEDED) as uffd:
        uffd.register(mapping.address, mapping.size_bytes, Mode.MISSING)
        touch(mapping, 40)
        assert len(mapped(mapping)) > 1


def test_registered_for_write_protection_a_mapping_gets_only_what_is_touched(mapping: Mapping) -> None:
    with Userfaultfd.open(NEEDED) as uffd:
        uffd.register(mapping.address, mapping.size_bytes, Mode.MISSING | Mode.WP)
        touch(mapping, 40)
        assert mapped(mapping) == {40}
        uffd.unregister(mapping.address, mapping.size_bytes)
        uffd.register(mapping.address, mapping.size_bytes, Mode.WP)
        touch(mapping, 20)
        assert mapped(mapping) == {20, 40}
