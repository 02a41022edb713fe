"""Heavy contents in one pass, against counting them all."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vmckpt.sharing.heavy import Heavy

STREAMS = st.lists(st.one_of(st.integers(0, 3), st.integers(0, 60)), max_size=300)
BATCHES = st.lists(STREAMS, max_size=4)


def counted(batches: list[list[int]], size: int, buffer_pages: int) -> Heavy:
    heavy = Heavy(size, buffer_pages)
    for batch in batches:
        heavy.add(np.array(batch, np.uint64))
    heavy.fold()
    return heavy


def check(heavy: Heavy, truth: Counter[int], size: int) -> None:
    table = dict(
        zip(
            heavy.hashes.tolist(),
            zip(heavy.counted.tolist(), heavy.missed.tolist(), strict=True),
            strict=True,
        )
    )
    assert len(table) <= size
    assert heavy.pages == truth.total()
    for content, copies in truth.items():
        if content in table:
            least, missed = table[content]
            assert least <= copies <= least + missed
        else:
            assert copies <= heavy.dropped


@given(BATCHES, st.integers(1, 20), st.integers(1, 100))
def test_every_content_is_within_its_bounds(batches: list[list[int]], size: int, buffer_pages: int) -> None:
    truth = Counter(content for batch in batches for content in batch)
    check(counted(batches, size, buffer_pages), truth, size)


@given(BATCHES, BATCHES, st.integers(1, 20))
def test_tables_merge(one: list[list[int]], other: list[list[int]], size: int) -> None:
    merged = counted(one, size, 50)
    merged.merge(counted(other, size, 50))
    check(merged, Counter(content for batch in one + other for content in batch), size)


@given(BATCHES)
def test_a_table_with_room_for_all_is_exact(batches: list[list[int]]) -> None:
    heavy = counted(batches, 1000, 7)
    truth = Counter(content for batch in batches for content in batch)
    assert dict(zip(heavy.hashes.tolist(), heavy.counted.tolist(), strict=True)) == truth
    assert heavy.dropped == 0
    assert not heavy.missed.any()


def test_what_is_dropped_grows_by_the_buffer_and_not_by_the_table() -> None:
    chance = np.random.default_rng(1)
    heavy = Heavy(100, 10_000)
    for _ in range(20):
        contents = chance.integers(10, 1 << 60, 10_000, dtype=np.uint64)
        contents[:500] = 7
        heavy.add(contents)
    heavy.fold()
    assert heavy.dropped <= 21
    [at] = np.flatnonzero(heavy.hashes == 7)
    assert (heavy.counted[at], heavy.missed[at]) == (10_000, 0)
