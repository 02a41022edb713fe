"""The order of memory blocks, against what a person would write down for small cases."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmckpt.errors import UsageError
from vmckpt.pages import PageRange
from vmckpt.saving.order import batches, block_numbers, ordered, page_ranges


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 40)), max_size=6),
    st.integers(1, 9),
)
def test_blocks_are_those_that_hold_a_page_of_a_range(gaps: list[tuple[int, int]], block_pages: int) -> None:
    ranges, end = [], 0
    for gap, length in gaps:
        ranges.append(PageRange(end + gap, end + gap + length))
        end += gap + length
    touched = {page // block_pages for pages in ranges for page in range(*pages)}
    assert list(block_numbers(ranges, block_pages)) == sorted(touched)


def test_physical_keeps_the_order() -> None:
    assert list(ordered([1, 4, 5], "physical", [], 8)) == [1, 4, 5]


def test_random_is_another_order_of_the_same_blocks_and_always_the_same() -> None:
    first, second = (list(ordered(range(100), "random", [], 8)) for _ in range(2))
    assert first == second
    assert first != list(range(100))
    assert sorted(first) == list(range(100))


def test_access_puts_blocks_with_active_pages_first_in_the_order_of_their_first_touch() -> None:
    active = [41, 9, 40, 200, 0]
    assert list(ordered([0, 1, 2, 5, 6], "access", active, 8)) == [5, 1, 0, 2, 6]


def test_access_needs_active_pages() -> None:
    with pytest.raises(UsageError, match="records no active pages"):
        ordered([1], "access", [], 8)


def test_an_unknown_layout_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="'sideways': expected one of physical, random, access"):
        ordered([1], "sideways", [], 8)


def test_batches_are_full_but_for_the_last() -> None:
    assert list(batches(range(7), 3)) == [(0, 1, 2), (3, 4, 5), (6,)]
    assert list(batches([], 3)) == []


@given(st.permutations(range(8)), st.integers(57, 64))
def test_ranges_cover_each_block_where_its_place_in_the_batch_is(batch: list[int], page_count: int) -> None:
    places = {}
    for index, pages in page_ranges(batch, 8, page_count):
        assert pages.start % 8 == 0
        for page in range(*pages):
            places[page] = index * 8 + page - pages.start
    expected = {
        page: batch.index(block) * 8 + page % 8
        for block in batch
        for page in range(block * 8, min(block * 8 + 8, page_count))
    }
    assert places == expected
