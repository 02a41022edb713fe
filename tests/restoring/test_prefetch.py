"""What is brought beforehand, and in which order."""

import pytest

from vmckpt.checkpoint.file import Place
from vmckpt.errors import UsageError
from vmckpt.pages import PageRange
from vmckpt.restoring.prefetch import Amount, parse_amount, plan_prefetch, runs_of, trips_of, with_halo


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [("5", 10, 5), ("50", 10, 10), ("0", 10, 0), ("0.5", 10, 5), ("1.0", 7, 7), ("0.0", 7, 0), ("1", 7, 1)],
)
def test_an_amount_is_a_number_or_a_part(text: str, count: int, expected: int) -> None:
    assert parse_amount(text).of(count) == expected


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "nan", "inf", "٣", "1e3"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no amount of pages"):
        parse_amount(text)


def test_the_first_part_is_brought_first_and_the_rest_later() -> None:
    plan = plan_prefetch([9, 3, 3, 7, 99, -1, 5], Amount(pages=2), halo_pages=0, page_count=10)
    assert plan == ([9, 3], [7, 5])


def test_a_halo_takes_neighbours_once_and_stays_within_memory() -> None:
    assert with_halo([0, 2], 1, 10) == [0, 1, 2, 3]
    plan = plan_prefetch([9, 4], Amount(pages=1), halo_pages=2, page_count=10)
    assert plan.first == [7, 8, 9]
    assert plan.rest == [2, 3, 4, 5, 6]


def test_trips_go_through_the_file_in_one_pass() -> None:
    places = {0: Place(2, 0), 1: None, 2: Place(0, 1), 3: Place(0, 0)}
    trips = trips_of([13, 0, 8, 5, 9, 2], 4, lambda block: places[block])
    assert [trip.storage_block for trip in trips] == [-1, 0, 2]
    assert trips[0].wanted == [(None, [5])]
    assert trips[1].wanted == [(Place(0, 0), [13]), (Place(0, 1), [8, 9])]
    assert trips[2].wanted == [(Place(2, 0), [0, 2])]


def test_pages_side_by_side_are_one_run() -> None:
    assert list(runs_of([1, 2, 3, 7, 9, 10])) == [PageRange(1, 4), PageRange(7, 8), PageRange(9, 11)]
    assert list(runs_of([])) == []
