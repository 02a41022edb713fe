"""States of pages, against a model; and that what died is finished."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmckpt.pages import PageRange
from vmckpt.restoring.residency import Origin, Residency, State

PAGES = 24
RANGES = st.tuples(st.integers(0, PAGES), st.integers(0, PAGES)).map(lambda ends: PageRange(*sorted(ends)))


def fresh() -> Residency:
    return Residency(memoryview(bytearray(PAGES)))


def states(residency: Residency) -> list[int]:
    return [residency.state(page) for page in range(PAGES)]


@given(st.lists(st.tuples(st.sampled_from(["claim", "settle", "remove", "take"]), RANGES), max_size=20))
def test_pages_only_move_up_and_nothing_in_place_is_claimed(steps: list[tuple[str, PageRange]]) -> None:
    residency = fresh()
    for what, pages in steps:
        before = states(residency)
        if what == "claim":
            claimed = {page for run in residency.claim(pages) for page in range(*run)}
            assert claimed == {page for page in range(*pages) if before[page] == State.MISSING}
        elif what == "settle":
            residency.settle(pages, State.PRESENT, Origin.BACKGROUND)
            assert all(
                residency.state(page) == (State.PRESENT if before[page] == State.CLAIMED else before[page])
                for page in range(*pages)
            )
        elif what == "remove":
            residency.remove(pages)
        else:
            for page in range(*pages):
                assert residency.take(page) == (before[page] < State.PRESENT)
        assert all(now >= then for now, then in zip(states(residency), before, strict=True))


def test_what_a_process_had_claimed_when_it_died_can_be_found() -> None:
    residency = fresh()
    residency.claim(PageRange(2, 5))
    residency.claim(PageRange(8, 12))
    residency.settle(PageRange(9, 10), State.PRESENT, Origin.DEMAND)
    assert residency.claimed() == [PageRange(2, 5), PageRange(8, 9), PageRange(10, 12)]


def test_a_successor_is_told_what_of_a_list_is_still_missing_in_its_order() -> None:
    residency = fresh()
    residency.claim(PageRange(2, 6))
    residency.settle(PageRange(2, 4), State.ZERO, Origin.PREFETCH)
    residency.remove(PageRange(7, 8))
    assert residency.missing_of([9, 7, 5, 3, 1, 8]) == [9, 1, 8]


def test_a_removed_page_stays_removed() -> None:
    residency = fresh()
    residency.claim(PageRange(0, 4))
    residency.remove(PageRange(1, 2))
    residency.settle(PageRange(0, 4), State.PRESENT, Origin.PREFETCH)
    assert states(residency)[:4] == [State.PRESENT, State.REMOVED, State.PRESENT, State.PRESENT]
    assert residency.claim(PageRange(0, 4)) == []


@pytest.mark.parametrize("state", [State.MISSING, State.CLAIMED, State.REMOVED])
def test_a_page_settles_as_something_that_is_in_place(state: State) -> None:
    residency = fresh()
    residency.claim(PageRange(0, 1))
    with pytest.raises(ValueError, match="cannot settle"):
        residency.settle(PageRange(0, 1), state, Origin.DEMAND)


def test_the_census_counts_every_page_once() -> None:
    residency = fresh()
    for start, state, origin in (
        (0, State.PRESENT, Origin.PREFETCH),
        (2, State.ZERO, Origin.PREFETCH),
        (4, State.PRESENT, Origin.DEMAND),
        (6, State.ZERO, Origin.DEMAND),
        (8, State.PRESENT, Origin.NEIGHBOUR),
        (10, State.PRESENT, Origin.BACKGROUND),
    ):
        residency.claim(PageRange(start, start + 2))
        residency.settle(PageRange(start, start + 2), state, origin)
    residency.claim(PageRange(12, 13))
    residency.remove(PageRange(20, 24))
    census = residency.census()
    assert census == (8, 4, 2, 2, 2, 2, 4)
    assert sum(census) == PAGES
