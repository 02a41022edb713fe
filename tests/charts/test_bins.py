"""Binning: what is counted in bins adds up to what was counted."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmckpt.charts.bins import Bins, counted, heights, round_up, spread, tallied, window_of, windows

TOTALS = st.integers(1, 5000)
MOST = st.integers(1, 300)


@given(TOTALS, MOST)
def test_bins_hold_everything_once(total: int, most: int) -> None:
    bins = Bins.at_most(total, most)
    assert bins.count <= most
    assert bins.size & (bins.size - 1) == 0
    assert bins.size == 1 or 2 * bins.count > most  # no smaller ones would do
    spans = [bins.span(index) for index in range(bins.count)]
    assert [thing for start, end in spans for thing in range(start, end)] == list(range(total))


@given(st.binary(min_size=1, max_size=2000).map(lambda cells: bytes(cell % 5 for cell in cells)), MOST)
def test_a_tally_keeps_sums(cells: bytes, most: int) -> None:
    bins = Bins.at_most(len(cells), most)
    found = tallied(cells, 5, bins)
    assert [sum(column[kind] for column in found) for kind in range(5)] == [
        cells.count(kind) for kind in range(5)
    ]
    assert [sum(column) for column in found] == [
        end - start for start, end in map(bins.span, range(bins.count))
    ]


@given(TOTALS.flatmap(lambda total: st.tuples(st.just(total), st.lists(st.integers(0, total - 1)))), MOST)
def test_a_count_keeps_sums_and_places(given_: tuple[int, list[int]], most: int) -> None:
    total, things = given_
    bins = Bins.at_most(total, most)
    found = counted(things, bins)
    for index, count in enumerate(found):
        start, end = bins.span(index)
        assert count == sum(start <= thing < end for thing in things)
    assert sum(found) == len(things)


MOMENT = st.floats(0, 1e4)


@given(MOMENT, MOMENT, st.integers(1, 200))
def test_windows_are_of_one_round_length_and_no_more_than_asked_for(
    start: float, end: float, most: int
) -> None:
    edges = windows(start, end, most)
    assert 2 <= len(edges) <= most + 2
    assert edges[0] == start
    assert edges[-1] == max(start, end)
    assert edges == sorted(edges)
    lengths = [high - low for low, high in itertools.pairwise(edges)]
    assert all(length == pytest.approx(lengths[0], rel=1e-6, abs=1e-9) for length in lengths[:-1])


@given(st.floats(1e-9, 1e9))
def test_a_round_number_is_no_less_and_hardly_more(value: float) -> None:
    assert value * (1 - 1e-8) <= round_up(value) <= value * 2.5 * (1 + 1e-8)


@given(st.lists(st.tuples(MOMENT, MOMENT).map(sorted)), MOMENT, MOMENT.filter(lambda length: length > 1e-3))
def test_stretches_of_time_keep_their_sum(stretches: list[list[float]], start: float, length: float) -> None:
    pairs = [(low, high) for low, high in stretches]
    edges = windows(start, start + length, 50)
    found = spread(pairs, edges)
    inside = sum(max(0.0, min(high, edges[-1]) - max(low, edges[0])) for low, high in pairs)
    assert sum(found) == pytest.approx(inside, abs=1e-6)
    for index, amount in enumerate(found):
        part = sum(max(0.0, min(high, edges[index + 1]) - max(low, edges[index])) for low, high in pairs)
        assert amount == pytest.approx(part, abs=1e-6)


def test_a_moment_outside_is_in_the_nearest_window() -> None:
    edges = [1.0, 2.0, 3.0]
    assert [window_of(edges, at) for at in (0.0, 1.0, 1.9, 2.0, 3.0, 9.0)] == [0, 0, 0, 1, 1, 1]


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=8))
def test_whatever_is_there_is_seen_and_heights_add_up(counts: list[int]) -> None:
    found = heights(counts, 100, 9)
    assert sum(found) == (100 if any(counts) else 0)
    assert all(height >= 9 if count else height == 0 for height, count in zip(found, counts, strict=True))
