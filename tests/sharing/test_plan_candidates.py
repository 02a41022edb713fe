"""What breaking up large pages frees, against counting in plain Python."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sharing.choices import frees, marks, room_of
from tests.sharing.memories import Memory, fleets
from vmckpt.sharing.candidates import Candidates, candidates_of, reclaim
from vmckpt.sharing.choice import Choice
from vmckpt.sharing.large import potential_of

Fleet = list[tuple[Memory, int]]
SMALL_PAGES = st.sampled_from([2, 4, 16])


def some(draw: st.DataObject, count: int) -> list[int]:
    return draw.draw(st.lists(st.integers(0, count - 1), unique=True))


@given(fleets(), SMALL_PAGES, st.booleans(), st.data())
def test_reclaim_is_what_counting_says(
    fleet: Fleet, small_pages: int, count_zero: bool, draw: st.DataObject
) -> None:
    table, large, held = room_of(fleet, small_pages)
    broken, before = some(draw, len(held)), some(draw, len(held))
    count = len(held)
    found = reclaim(
        *(table, large, marks(count, broken)), small_already=marks(count, before), count_zero=count_zero
    )
    assert found == frees(held, broken, before=before, count_zero=count_zero)


@given(fleets(), SMALL_PAGES)
def test_breaking_all_frees_what_the_table_says(fleet: Fleet, small_pages: int) -> None:
    table, large, _ = room_of(fleet, small_pages)
    everything = reclaim(table, large, np.ones(len(large), np.bool_))
    assert everything == table.reclaimable + table.zero_pages.sum() == candidates_of(table, large).most


@given(fleets(), SMALL_PAGES, st.booleans(), st.data())
def test_candidates_free_the_same_in_any_choice(
    fleet: Fleet, small_pages: int, count_zero: bool, draw: st.DataObject
) -> None:
    table, large, held = room_of(fleet, small_pages)
    count = len(held)
    before, spared, chosen = (some(draw, count) for _ in range(3))
    candidates = candidates_of(
        *(table, large),
        small_already=marks(count, before),
        spared=marks(count, spared),
        count_zero=count_zero,
    )
    within = np.isin(candidates.numbers, chosen)
    expected = frees(held, set(chosen) - set(spared) - set(before), before=before, count_zero=count_zero)
    assert candidates.freed(within) == expected
    assert not set(candidates.numbers.tolist()) & {*before, *spared}


@given(fleets(), SMALL_PAGES, st.data())
def test_a_curve_is_what_each_prefix_frees(fleet: Fleet, small_pages: int, draw: st.DataObject) -> None:
    table, large, held = room_of(fleet, small_pages)
    candidates = candidates_of(table, large)
    order = draw.draw(st.permutations(range(len(candidates))))[: draw.draw(st.integers(0, len(candidates)))]
    curve = candidates.curve(np.array(order, np.int64)).tolist()
    numbers = candidates.numbers[np.array(order, np.int64)].tolist()
    assert curve == [frees(held, numbers[: length + 1]) for length in range(len(order))]
    assert curve == sorted(curve)


@given(fleets(), SMALL_PAGES)
def test_candidates_know_the_potential_of_their_large_pages(fleet: Fleet, small_pages: int) -> None:
    table, large, _ = room_of(fleet, small_pages)
    candidates, potential = candidates_of(table, large), potential_of(table, large)
    assert candidates.numbers.tolist() == np.flatnonzero(potential.shareable).tolist()
    assert candidates.shareable.tolist() == potential.shareable[candidates.numbers].tolist()
    assert candidates.gains.tolist() == pytest.approx(potential.gain[candidates.numbers].tolist())


@given(fleets(), SMALL_PAGES, st.data())
def test_a_choice_knows_what_each_adds_and_takes_away(
    fleet: Fleet, small_pages: int, draw: st.DataObject
) -> None:
    table, large, _ = room_of(fleet, small_pages)
    candidates = candidates_of(table, large)
    count = len(candidates)
    if not count:
        return
    choice = Choice(candidates, marks(count, some(draw, count)))
    for changed in draw.draw(st.lists(st.integers(0, count - 1), max_size=12)):
        if choice.chosen[changed]:
            choice.remove(changed)
        else:
            choice.add(changed)
    check(candidates, choice)
    inside = np.flatnonzero(choice.chosen).tolist()
    if inside:
        gains = choice.gains_without(inside[0])
        choice.remove(inside[0])
        outside = np.flatnonzero(~choice.chosen)
        outside = outside[outside != inside[0]]
        assert gains[outside].tolist() == choice.gains[outside].tolist()


def check(candidates: Candidates, choice: Choice) -> None:
    assert choice.freed == candidates.freed(choice.chosen)
    assert choice.count == choice.chosen.sum()
    for index in range(len(candidates)):
        other = choice.chosen.copy()
        other[index] = not other[index]
        change = abs(candidates.freed(other) - choice.freed)
        mine, theirs = (
            (choice.losses, choice.gains) if choice.chosen[index] else (choice.gains, choice.losses)
        )
        assert int(mine[index]) == change
        assert np.isinf(theirs[index])
