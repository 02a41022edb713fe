"""Page ranges and the blocks they touch."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmckpt.pages import PAGE_BYTES, ZERO_PAGE, PageRange, blocks_of, page_view

PAGES = 60


def ascending(*, touching: bool) -> st.SearchStrategy[list[PageRange]]:
    """Ascending ranges within PAGES pages, empty ones among them; with or without overlaps."""
    pairs = st.lists(st.tuples(st.integers(0, PAGES), st.integers(0, 9)), max_size=8).map(sorted)

    def cut(pairs: list[tuple[int, int]]) -> list[PageRange]:
        ranges, end = [], 0
        for start, pages in pairs:
            low = start if touching else max(start, end)
            ranges.append(PageRange(min(low, PAGES), min(low + pages, PAGES)))
            end = max(end, ranges[-1].end)
        return ranges

    return pairs.map(cut)


@pytest.mark.parametrize("touching", [True, False], ids=["overlapping", "disjoint"])
@given(data=st.data(), block_pages=st.integers(1, 20), page_count=st.integers(PAGES, PAGES + 20))
def test_blocks_are_all_those_touched_and_joined_where_adjacent(
    data: st.DataObject, touching: bool, block_pages: int, page_count: int
) -> None:
    ranges = data.draw(ascending(touching=touching))
    touched = {page // block_pages for start, end in ranges for page in range(start, end)}
    expected = [page for page in range(page_count) if page // block_pages in touched]
    blocks = list(blocks_of(ranges, block_pages, page_count))
    assert [page for start, end in blocks for page in range(start, end)] == expected
    assert all(low.end < high.start for low, high in itertools.pairwise(blocks))


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ([], []),
        ([(5, 5)], []),
        ([(0, 1)], [(0, 4)]),
        ([(3, 5)], [(0, 8)]),
        ([(0, 1), (4, 5)], [(0, 8)]),
        ([(0, 1), (9, 10)], [(0, 4), (8, 10)]),
        ([(0, 1), (2, 3)], [(0, 4)]),
    ],
    ids=["none", "empty", "one", "two", "adjacent", "apart, the last cut", "twice the same"],
)
def test_blocks_of_four_pages_of_ten(ranges: list[tuple[int, int]], expected: list[tuple[int, int]]) -> None:
    assert list(blocks_of([PageRange(*pair) for pair in ranges], 4, 10)) == expected


def test_a_range_counts_its_pages() -> None:
    assert (PageRange(3, 10).pages, PageRange(3, 3).pages) == (7, 0)


def test_a_page_view_shares_the_buffer() -> None:
    buffer = memoryview(bytearray(3 * PAGE_BYTES))
    view = page_view(buffer, 1)
    view[:] = b"x" * PAGE_BYTES
    assert bytes(buffer) == ZERO_PAGE + b"x" * PAGE_BYTES + ZERO_PAGE
