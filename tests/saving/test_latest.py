"""Digest and counts of blocks that come in any order, against a plain dictionary of pages."""

from array import array

from hypothesis import given
from hypothesis import strategies as st

from tests.support.memory import pages_of
from vmckpt.checkpoint.format import DUPLICATE, PATTERN, STORED, ZERO
from vmckpt.hashing import Digest, pack_hashes, page_hashes
from vmckpt.pages import PageRange
from vmckpt.saving.latest import LatestTally

BLOCKS = 5
NOTHING = memoryview(b"")
# Pages as numbers, each with the kind that a save might give it; 0 is the zero page.
PAGES = st.sampled_from([(0, ZERO), (0, ZERO), (7, PATTERN), (1, STORED), (2, STORED), (2, DUPLICATE)])


def digest_of(numbers: list[int]) -> bytes:
    digest = Digest()
    digest.add(pack_hashes(page_hashes(memoryview(pages_of(numbers)))))
    return digest.bytes()


def hashes_of(numbers: list[int]) -> memoryview:
    return memoryview(array("Q", page_hashes(memoryview(pages_of(numbers)))))


def pages_in(block: int, block_pages: int, page_count: int) -> range:
    return range(*PageRange(block * block_pages, min((block + 1) * block_pages, page_count)))


@given(data=st.data(), block_pages=st.integers(1, 4), missing=st.integers(0, 3))
def test_the_last_version_of_each_block_counts(data: st.DataObject, block_pages: int, missing: int) -> None:
    page_count = max(BLOCKS * block_pages - missing, 1)
    blocks = -(-page_count // block_pages)
    tally = LatestTally(page_count, block_pages)
    pages = dict.fromkeys(range(page_count), (0, ZERO))
    came: set[int] = set()
    for block in data.draw(st.lists(st.integers(0, blocks - 1), max_size=12)):
        mine = pages_in(block, block_pages, page_count)
        drawn = data.draw(st.lists(PAGES, min_size=len(mine), max_size=len(mine)))
        kinds = bytes(kind for _, kind in drawn)
        if any(kinds) or data.draw(st.booleans()):
            tally.add(block, kinds, hashes_of([number for number, _ in drawn]))
        else:
            tally.add(block, kinds, NOTHING)  # as the pipeline tells a block of zeros
        pages.update(zip(mine, drawn, strict=True))
        came.add(block)
        if any(kinds):
            assert tally.pages_of(block) == len(mine) - kinds.count(ZERO)
    kinds = bytes(kind for _, kind in pages.values())
    assert tally.digest() == digest_of([number for number, _ in pages.values()])
    counts = tally.counts()
    assert (counts.total, counts.zero, counts.pattern, counts.duplicate, counts.stored) == (
        page_count,
        *(kinds.count(kind) for kind in (ZERO, PATTERN, DUPLICATE, STORED)),
    )
    for block in set(range(blocks)) - came:
        assert tally.pages_of(block) == len(pages_in(block, block_pages, page_count))


def test_memory_of_which_nothing_came_is_zero() -> None:
    tally = LatestTally(10, 4)
    assert tally.digest() == digest_of([0] * 10)
    assert (tally.counts().zero, tally.resaved_pages) == (10, 0)


def test_pages_saved_again_are_those_of_later_versions_that_are_not_zero() -> None:
    tally = LatestTally(8, 4)
    tally.add(0, bytes([STORED] * 4), hashes_of([1, 2, 3, 4]))
    tally.add(1, bytes([STORED] * 4), hashes_of([5, 6, 7, 8]))
    assert tally.resaved_pages == 0
    tally.add(0, bytes([STORED, ZERO, PATTERN, STORED]), hashes_of([9, 0, 7, 4]))
    assert tally.resaved_pages == 3
    tally.add(1, bytes([ZERO] * 4), NOTHING)
    assert tally.resaved_pages == 3
    assert tally.digest() == digest_of([9, 0, 7, 4, 0, 0, 0, 0])
