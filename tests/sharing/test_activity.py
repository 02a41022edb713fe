"""How active large pages are."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.sharing.memories import Memory, fleets, hashes_of_memory
from vmckpt.layout import PAGE_BYTES
from vmckpt.machine.activity import Thresholds
from vmckpt.sharing.activity import COLD_BELOW, HOT_FROM, activity_of
from vmckpt.sharing.large import large_pages_of

Fleet = list[tuple[Memory, int]]


@given(fleets(), st.data())
def test_activity_is_the_part_of_the_small_pages_that_was_touched(fleet: Fleet, draw: st.DataObject) -> None:
    images, touched = [], []
    for memory, _ in fleet:
        pages = st.lists(st.integers(0, len(memory.content) - 1), max_size=20)
        active = draw.draw(st.none() | pages)  # in the order of the touches; a page may be there twice
        touched.append(active)
        kept = None if active is None else np.array(active, np.int64)
        images.append(replace(hashes_of_memory(memory), active=kept))
    large = large_pages_of(images, 4 * PAGE_BYTES)
    found = activity_of(images, large)
    for index, (image, number) in enumerate(zip(large.images.tolist(), large.numbers.tolist(), strict=True)):
        active, layout = touched[image], fleet[image][0].layout
        if active is None:
            assert np.isnan(found[index])
            continue
        inside = {page for page in active if layout.gpa_of(page) // (4 * PAGE_BYTES) == number}
        assert found[index] == len(inside) / large.small_pages[index]


def test_hot_and_cold_are_what_a_running_machine_calls_so() -> None:
    assert (Thresholds().cold, Thresholds().hot) == (COLD_BELOW, HOT_FROM)
