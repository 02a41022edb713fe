"""Large pages and what sharing inside them would free, against counting in plain Python."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sharing.memories import Memory, copies_of, fleets, hashes_of_memory
from vmckpt.layout import PAGE_BYTES
from vmckpt.machine.large import LargePages
from vmckpt.sharing.large import large_pages_of, potential_of
from vmckpt.sharing.table import table_of

Fleet = list[tuple[Memory, int]]


@given(fleets(), st.sampled_from([2, 4, 16]))
def test_potential_counts_each_small_page_where_it_lies(fleet: Fleet, small_pages: int) -> None:
    images = [hashes_of_memory(memory) for memory, _ in fleet]
    table = table_of(images).within([group for _, group in fleet])
    large = large_pages_of(images, small_pages * PAGE_BYTES)
    potential = potential_of(table, large)

    copies = copies_of(fleet)
    held, zero, shareable = Counter[tuple[int, int]](), Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    gain: dict[tuple[int, int], float] = {}
    for image, (memory, group) in enumerate(fleet):
        for page, content in enumerate(memory.content):
            where = (image, memory.layout.gpa_of(page) // (small_pages * PAGE_BYTES))
            held[where] += 1
            zero[where] += not content
            shareable[where] += not content or copies[group, content] > 1
            freed = 1 - 1 / copies[group, content] if content else 1.0
            gain[where] = gain.get(where, 0.0) + freed
    order = sorted(held)
    assert list(zip(large.images.tolist(), large.numbers.tolist(), strict=True)) == order
    assert large.small_pages.tolist() == [held[where] for where in order]
    assert large.zero_pages.tolist() == [zero[where] for where in order]
    assert potential.shareable.tolist() == [shareable[where] for where in order]
    assert potential.gain.tolist() == pytest.approx([gain[where] for where in order])


@given(fleets())
def test_gains_add_up_to_what_sharing_frees(fleet: Fleet) -> None:
    images = [hashes_of_memory(memory) for memory, _ in fleet]
    table = table_of(images)
    potential = potential_of(table, large_pages_of(images, 4 * PAGE_BYTES))
    assert potential.gain.sum() == pytest.approx(table.reclaimable + table.zero_pages.sum())


@given(fleets(), st.sampled_from([2, 8]))
def test_every_place_is_in_the_large_page_of_its_address(fleet: Fleet, small_pages: int) -> None:
    images = [hashes_of_memory(memory) for memory, _ in fleet]
    large = large_pages_of(images, small_pages * PAGE_BYTES)
    place = 0
    for image, (memory, _) in enumerate(fleet):
        for page in range(len(memory.content)):
            [found] = large.of(np.array([place])).tolist()
            assert large.images[found] == image
            assert large.numbers[found] == memory.layout.gpa_of(page) // (small_pages * PAGE_BYTES)
            place += 1


@given(fleets(most_images=1), st.sampled_from([2, 4, 16]))
def test_large_pages_are_those_that_a_machine_breaks_up(fleet: Fleet, small_pages: int) -> None:
    ((memory, _),) = fleet
    of_machine = LargePages(memory.layout, small_pages * PAGE_BYTES)
    large = large_pages_of([hashes_of_memory(memory)], small_pages * PAGE_BYTES)
    assert large.numbers.tolist() == of_machine.numbers
    assert large.small_pages.tolist() == [of_machine.pages_of(number).pages for number in of_machine.numbers]
    pages = np.arange(len(memory.content))
    assert large.numbers[large.of(pages)].tolist() == [of_machine.of(page) for page in pages.tolist()]
