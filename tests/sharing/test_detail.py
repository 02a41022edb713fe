"""What a picture shows: as plain counting has it."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sharing.memories import Memory, fleets, hashes_of_memory
from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.sharing.detail import detail_of
from vmckpt.sharing.large import large_pages_of, potential_of
from vmckpt.sharing.outcome import Break, SharingDetail
from vmckpt.sharing.table import table_of

LARGE = 4 * PAGE_BYTES


def found_of(
    fleet: list[tuple[Memory, int]], breaks: list[Break], activity: float = 0.5, part_cells: int = 1 << 20
) -> SharingDetail:
    images = [hashes_of_memory(memory) for memory, _ in fleet]
    table, large = table_of(images), large_pages_of(images, LARGE)
    potential = potential_of(table.within([group for _, group in fleet]), large)
    names = [str(at) for at in range(len(fleet))]
    active = np.full(len(large), activity)
    return detail_of(names, table, large, potential, active, breaks, part_cells=part_cells)


@given(fleets(), st.integers(1, 40))
def test_the_matrix_is_what_counting_says(fleet: list[tuple[Memory, int]], cells: int) -> None:
    found = found_of(fleet, [], part_cells=cells)
    counts = [Counter(value for value in memory.content if value) for memory, _ in fleet]
    for y, one in enumerate(counts):
        for x, other in enumerate(counts):
            expected = (one & other).total() if y != x else one.total() - len(one)
            assert found.matrix[y][x] == expected


@pytest.mark.parametrize(("one", "other"), [(1, 1), (8, 9), (9, 9), (30, 17), (40, 0)])
def test_many_copies_are_counted_as_few_are(one: int, other: int) -> None:
    memories = [Memory([7] * many + [0, 1], Layout([(0, (many + 2) * PAGE_BYTES)])) for many in (one, other)]
    found = found_of([(memory, 0) for memory in memories], [])
    assert found.matrix == [[max(one - 1, 0), min(one, other) + 1], [min(one, other) + 1, max(other - 1, 0)]]


@given(fleets(), st.sets(st.tuples(st.integers(0, 3), st.integers(0, 20))))
def test_maps_hold_every_large_page_with_what_it_frees(
    fleet: list[tuple[Memory, int]], chosen: set[tuple[int, int]]
) -> None:
    found = found_of(fleet, [Break(str(image), number) for image, number in chosen])
    copies = Counter((group, value) for memory, group in fleet for value in memory.content if value)
    assert [image.source for image in found.maps] == [str(at) for at in range(len(fleet))]
    for at, (image, (memory, group)) in enumerate(zip(found.maps, fleet, strict=True)):
        pages: dict[int, list[int]] = {}
        for page, value in enumerate(memory.content):
            pages.setdefault(memory.layout.gpa_of(page) // LARGE, []).append(value)
        assert list(image.large_pages) == sorted(pages)
        inside = [pages[number] for number in image.large_pages]
        assert list(image.small_pages) == list(map(len, inside))
        assert list(image.zero_pages) == [values.count(0) for values in inside]
        assert list(image.gain_pages) == pytest.approx(
            [sum(1 - 1 / copies[group, value] if value else 1 for value in values) for values in inside]
        )
        assert list(image.broken) == [(at, number) in chosen for number in image.large_pages]
        assert image.activity == [0.5] * len(inside)


def test_activity_that_is_not_known_is_none() -> None:
    memory = Memory([1, 2], Layout([(0, 2 * PAGE_BYTES)]))
    assert found_of([(memory, 0)], [], activity=float("nan")).maps[0].activity is None
