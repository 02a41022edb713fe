"""The record of active pages: each once, in the order in which they were seen."""

from array import array

from hypothesis import given, settings
from hypothesis import strategies as st

from vmckpt.trace.active import Active

PAGES, BLOCK_PAGES = 22, 4
marks = st.lists(st.tuples(st.integers(0, PAGES - 1), st.booleans()), max_size=40)


@settings(deadline=None)
@given(marks)
def test_each_page_is_in_once_where_it_was_seen_first(steps: list[tuple[int, bool]]) -> None:
    active = Active(PAGES, BLOCK_PAGES)
    expected: dict[int, None] = {}
    for page, whole_block in steps:
        active.mark(page, whole_block=whole_block)
        expected.setdefault(page)
        if whole_block:
            start = page // BLOCK_PAGES * BLOCK_PAGES
            for other in range(start, min(start + BLOCK_PAGES, PAGES)):
                expected.setdefault(other)
    assert list(active.pages()) == list(expected)
    assert len(active) == len(expected)
    assert [page for page in range(-1, PAGES + 1) if page in active] == sorted(expected)


def test_a_block_begins_with_the_page_that_trapped() -> None:
    active = Active(PAGES, BLOCK_PAGES)
    active.mark(6, whole_block=True)
    active.mark(21, whole_block=True)  # the last block is short
    assert list(active.pages()) == [6, 4, 5, 7, 21, 20]


def test_pages_of_another_record_follow_in_their_order() -> None:
    active = Active(PAGES, BLOCK_PAGES)
    active.mark(3)
    active.extend(array("Q", [5, 3, 1]))
    assert active.pages() == array("Q", [3, 5, 1])


def test_what_is_handed_out_is_a_copy() -> None:
    active = Active(PAGES, BLOCK_PAGES)
    active.pages().append(7)
    assert len(active) == 0
    assert "7" not in active
