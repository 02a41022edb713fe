"""Which pages are called active, from what trapped and how far the background has come."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmckpt.pages import PageRange
from vmckpt.saving.estimators import ESTIMATORS, ByScanning, ByTracing, Estimator
from vmckpt.trace.journal import Entry

PAGES, BLOCK_PAGES = 10, 4


def touches(*pages: int) -> list[Entry]:
    return [Entry(0, page, write=False, copied=False) for page in pages]


class Scanning:
    """A scanning estimator, and the traces that it set again."""

    def __init__(self, *, whole_block: bool = False) -> None:
        self.again: list[PageRange] = []
        self.estimator = ByScanning(
            PAGES, BLOCK_PAGES, whole_block=whole_block, trace_again=self._trace_again
        )

    def _trace_again(self, ranges: Sequence[PageRange]) -> None:
        assert ranges
        self.again += ranges


@pytest.mark.parametrize(
    ("whole_block", "expected"),
    [(False, [6, 9, 1]), (True, [6, 4, 5, 7, 9, 8, 1, 0, 2, 3])],
    ids=["page by page", "block by block"],
)
def test_tracing_calls_active_what_trapped_in_this_order(whole_block: bool, expected: list[int]) -> None:
    estimator = ByTracing(PAGES, BLOCK_PAGES, whole_block=whole_block)
    estimator.hear(touches(6, 9))
    estimator.pass_page(PAGES)
    estimator.hear(touches(6, 1))
    assert list(estimator.active()) == expected
    assert len(estimator) == len(expected)


def test_scanning_calls_active_what_the_hand_finds_touched_and_traces_it_again() -> None:
    scanning = Scanning()
    estimator = scanning.estimator
    estimator.hear(touches(5, 2, 1))
    assert len(estimator) == 0
    estimator.pass_page(4)
    assert list(estimator.active()) == [1, 2]
    assert scanning.again == [PageRange(1, 3)]
    estimator.hear(touches(0, 7))  # one behind the hand, one before it
    estimator.pass_page(PAGES)
    assert list(estimator.active()) == [1, 2, 5, 7]
    assert scanning.again == [PageRange(1, 3), PageRange(5, 6), PageRange(7, 8)]
    assert len(estimator) == 4


def test_a_touch_stands_for_its_block_where_the_block_was_let_whole() -> None:
    scanning = Scanning(whole_block=True)
    scanning.estimator.hear(touches(9, 2))
    scanning.estimator.pass_page(PAGES)
    assert list(scanning.estimator.active()) == [0, 1, 2, 3, 8, 9]
    assert scanning.again == [PageRange(0, 4), PageRange(8, 10)]


@given(
    st.lists(st.tuples(st.integers(0, PAGES - 1), st.integers(0, PAGES)), max_size=30),
    st.booleans(),
)
def test_scanning_finds_nothing_that_tracing_does_not(
    steps: list[tuple[int, int]], whole_block: bool
) -> None:
    scanning = Scanning(whole_block=whole_block).estimator
    tracing = ByTracing(PAGES, BLOCK_PAGES, whole_block=whole_block)
    estimators: list[Estimator] = [scanning, tracing]
    passed = 0
    for page, hand in steps:
        passed = max(passed, hand)
        for estimator in estimators:
            estimator.hear(touches(page))
            estimator.pass_page(passed)
    assert set(scanning.active()) <= set(tracing.active())
    assert all(len(estimator) == len(set(estimator.active())) for estimator in estimators)


def test_both_have_a_name() -> None:
    assert ESTIMATORS == ("tracing", "scanning")
