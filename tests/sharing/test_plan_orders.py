"""Orders to break large pages up in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sharing.choices import large_pages_with, room_of
from tests.sharing.memories import Memory, fleets
from vmckpt.sharing import orders
from vmckpt.sharing.candidates import candidates_of
from vmckpt.sharing.orders import ORDERS, needed, order_of, prices_of
from vmckpt.sharing.table import SharingTable

Fleet = list[tuple[Memory, int]]


@pytest.mark.parametrize("name", ORDERS)
@given(fleet=fleets(), steps=st.sampled_from([3, 40_000]))
def test_every_order_has_each_candidate_once(name: str, fleet: Fleet, steps: int) -> None:
    table, large, _ = room_of(fleet, 4)
    candidates = candidates_of(table, large)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orders, "_MOST_STEPS", steps)
        assert sorted(order_of(name, candidates).tolist()) == list(range(len(candidates)))


@given(fleets(), st.floats(0, 1), st.data())
def test_no_set_frees_more_than_what_is_left_of_it(fleet: Fleet, part: float, draw: st.DataObject) -> None:
    table, large, _ = room_of(fleet, 4)
    candidates = candidates_of(table, large)
    prices = prices_of(candidates, int(part * candidates.most), rounds=draw.draw(st.integers(1, 40)))
    chosen = np.array(
        draw.draw(st.lists(st.booleans(), min_size=len(candidates), max_size=len(candidates))), bool
    )
    assert candidates.freed(chosen) <= prices.left[chosen].sum() + 1e-6
    assert prices.left.sum() == pytest.approx(candidates.most)


def test_greedy_does_not_see_that_two_are_worth_it_together_and_the_price_does() -> None:
    # Three large pages with one pair of equal pages each, to be had alone; and two that share five pages.
    room = large_pages_with(
        [[1, 1, 2, 2], [3, 3, 4, 4], [5, 5, 6, 6], [10, 11, 12, 13, 14], [10, 11, 12, 13, 14]]
    )
    candidates = candidates_of(room.table, room.large)
    curves = {name: candidates.curve(order_of(name, candidates)).tolist() for name in ORDERS}
    assert curves["greedy"][:2] == [2, 4]
    assert curves["balanced"][1] == curves["gain"][1] == 5


def test_a_large_page_that_gains_by_one_copy_of_many_is_charged_for_the_keeper() -> None:
    # 0 and 1 hold everything that 2, 3 and 4 hold one page of each: those are no use without them.
    room = large_pages_with([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6], [1, 2], [3, 4], [5, 6]])
    candidates = candidates_of(room.table, room.large)
    order = order_of("balanced", candidates)
    assert sorted(order[:2].tolist()) == [0, 1]
    assert candidates.curve(order).tolist() == [0, 6, 8, 10, 12]


def test_ksm_comes_to_both_large_pages_at_the_first_match() -> None:
    # Scanned: 7 8 | 9 8 | 7 1 | 1 5: the second 8 splits large pages 0 and 1, the second 7 splits 2, the second 1 splits 3.
    room = large_pages_with([[7, 8], [9, 8], [7, 1], [1, 5]])
    candidates = candidates_of(room.table, room.large)
    assert candidates.numbers[candidates.scan_order].tolist() == [0, 1, 2, 3]
    room = large_pages_with([[7], [3, 3], [7]])
    candidates = candidates_of(room.table, room.large)
    assert candidates.numbers[candidates.scan_order].tolist() == [1, 0, 2]


@given(fleets(most_images=2))
def test_the_scan_order_is_that_of_a_scan(fleet: Fleet) -> None:
    table, large, _ = room_of(fleet, 4)
    candidates = candidates_of(table, large, count_zero=False)
    assert candidates.numbers[candidates.scan_order].tolist() == scanned(
        table, large.of(table.places).tolist()
    )


def scanned(table: SharingTable, large_of_row: list[int]) -> list[int]:
    # Page after page: the large pages in the order in which a match splits them.
    first: dict[int, int] = {}
    split: list[int] = []
    rows = zip(table.places.tolist(), table.values.tolist(), large_of_row, strict=True)
    for _, value, large in sorted(rows):
        if value in first:
            split += [first[value], large]
        else:
            first[value] = large
    return list(dict.fromkeys(split))


def test_needed_is_the_first_prefix_that_meets_a_target() -> None:
    curve = np.array([0, 5, 5, 9])
    assert [needed(curve, target) for target in (0, 1, 5, 6, 9, 10)] == [0, 2, 2, 4, 4, 4]
