"""The table of equal pages, against counting in plain Python."""

import itertools
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.sharing.memories import Memory, copies_of, fleets, hashes_of_memory
from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.sharing.table import SharingTable, table_of

Fleet = list[tuple[Memory, int]]


def table_for(fleet: Fleet, part_pages: int = 1000) -> SharingTable:
    return table_of([hashes_of_memory(memory) for memory, _ in fleet], part_pages=part_pages)


def rows_of(table: SharingTable) -> list[list[int]]:
    return [table.places[start:end].tolist() for start, end in itertools.pairwise(table.starts.tolist())]


def places_by_content(fleet: Fleet) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    place = 0
    for memory, _ in fleet:
        for content in memory.content:
            if content:
                found.setdefault(content, []).append(place)
            place += 1
    return {content: places for content, places in found.items() if len(places) > 1}


@given(fleets(), st.sampled_from([1, 7, 1000]))
def test_rows_are_the_pages_that_have_an_equal(fleet: Fleet, part_pages: int) -> None:
    table = table_for(fleet, part_pages)
    assert sorted(rows_of(table)) == sorted(places_by_content(fleet).values())


@given(fleets(), st.sampled_from([1, 7, 1000]))
def test_distinct_and_reclaimable_are_those_of_all_pages(fleet: Fleet, part_pages: int) -> None:
    table = table_for(fleet, part_pages)
    counts = Counter(content for memory, _ in fleet for content in memory.content if content)
    assert table.distinct == len(counts)
    assert table.reclaimable == counts.total() - len(counts)
    assert (table.page_counts - table.zero_pages).sum() == counts.total()


@given(fleets())
def test_within_groups_only_pages_of_one_group_share(fleet: Fleet) -> None:
    table = table_for(fleet).within([group for _, group in fleet])
    counts = copies_of(fleet)
    assert table.distinct == len(counts)
    assert table.reclaimable == counts.total() - len(counts)
    assert sorted(table.copies.tolist()) == sorted(count for count in counts.values() if count > 1)
    group_of = np.array([group for _, group in fleet])[table.images]
    assert all(len({*group_of[start:end]}) == 1 for start, end in itertools.pairwise(table.starts.tolist()))


@given(fleets())
def test_each_row_tells_its_image_and_page(fleet: Fleet) -> None:
    table = table_for(fleet)
    told = zip(table.values.tolist(), table.images.tolist(), table.pages.tolist(), strict=True)
    contents: dict[int, set[int]] = {}
    for value, image, page in told:
        contents.setdefault(value, set()).add(fleet[image][0].content[page])
    assert all(len(content) == 1 for content in contents.values())


@given(fleets())
def test_each_value_keeps_its_hash(fleet: Fleet) -> None:
    table = table_for(fleet).within([group for _, group in fleet])
    images = [hashes_of_memory(memory) for memory, _ in fleet]
    for row, image, page in zip(
        table.values.tolist(), table.images.tolist(), table.pages.tolist(), strict=True
    ):
        where = np.searchsorted(images[image].pages, page)
        assert images[image].hashes[where] == table.hashes[row]


def test_zero_pages_alone_leave_an_empty_table() -> None:
    table = table_for([(Memory([0, 0, 0], Layout([(0, 3 * PAGE_BYTES)])), 0)])
    assert (table.distinct, table.reclaimable, len(table.within([5]).places)) == (0, 0, 0)
