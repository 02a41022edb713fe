"""The estimator that scans: rate, order, what is traced again."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmckpt.pages import PageRange
from vmckpt.trace.scan import PAGES_PER_S, Scan

PAGES = 23
steps = st.lists(
    st.one_of(st.integers(0, PAGES - 1), st.floats(0, 5, allow_nan=False)),  # a touch, or time that passes
    max_size=60,
)


def pages_of(ranges: list[PageRange]) -> list[int]:
    return [page for start, end in ranges for page in range(start, end)]


@settings(deadline=None)
@given(steps)
def test_the_hand_finds_what_was_touched_since_it_came_by(steps: list[int | float]) -> None:
    scan = Scan(PAGES, 10)
    scan.advance(0)
    now_s, hand, touched, order = 0.0, 0, set[int](), dict[int, None]()
    for step in steps:
        if isinstance(step, int):
            scan.touch(step)
            touched.add(step)
            continue
        now_s += step
        stop = int(now_s * 10)
        passed = list(dict.fromkeys(number % PAGES for number in range(max(hand, stop - PAGES), stop)))
        found = [page for page in passed if page in touched]
        ranges = scan.advance(now_s)
        assert pages_of(ranges) == found
        assert all(start < end for start, end in ranges)
        touched -= set(found)
        order |= dict.fromkeys(found)
        hand = stop
    assert list(scan.active()) == list(order)


@settings(deadline=None)
@given(st.lists(st.floats(0, 3, allow_nan=False), min_size=1, max_size=20))
def test_small_steps_go_as_far_as_large_ones(waits: list[float]) -> None:
    small, large = Scan(PAGES, 7), Scan(PAGES, 7)
    for scan in (small, large):
        scan.advance(0)
        for page in range(PAGES):
            scan.touch(page)
    now_s, found = 0.0, set[int]()
    for wait_s in waits:
        now_s += wait_s
        found |= set(pages_of(small.advance(now_s)))
    assert found == set(pages_of(large.advance(now_s)))


def test_adjacent_pages_are_one_range() -> None:
    scan = Scan(8, 4)
    scan.advance(100)
    for page in (1, 2, 3, 4, 7):
        scan.touch(page)
    assert scan.advance(101) == [PageRange(1, 4)]
    assert scan.advance(102) == [PageRange(4, 5), PageRange(7, 8)]


def test_the_hand_goes_around() -> None:
    scan = Scan(8, 4)
    scan.advance(0)
    assert scan.advance(1.5) == []
    for page in (0, 1, 6):
        scan.touch(page)
    assert scan.advance(2.25) == [PageRange(6, 7), PageRange(0, 1)]
    assert scan.advance(1000) == [PageRange(1, 2)]
    assert list(scan.active()) == [6, 0, 1]


def test_a_clock_that_stands_moves_nothing() -> None:
    scan = Scan(8, 4)
    scan.advance(5)
    scan.touch(0)
    assert scan.advance(5) == []
    assert scan.advance(4) == []
    assert scan.advance(5.25) == [PageRange(0, 1)]


def test_the_rate_is_that_of_the_paper() -> None:
    scan = Scan(10_000)
    scan.advance(0)
    for page in range(10_000):
        scan.touch(page)
    assert PAGES_PER_S == 4096
    assert scan.advance(1) == [PageRange(0, 4096)]


@pytest.mark.parametrize(("pages", "rate"), [(0, 1.0), (8, 0.0), (8, -1.0), (8, float("nan"))])
def test_a_hand_that_cannot_move_is_refused(pages: int, rate: float) -> None:
    with pytest.raises(ValueError, match="cannot scan"):
        Scan(pages, rate)
