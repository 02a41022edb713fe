"""The table of pages met before, against a dictionary."""

from array import array

from hypothesis import given
from hypothesis import strategies as st

from vmckpt.checkpoint.format import PATTERN, STORED, ZERO
from vmckpt.saving import dedup
from vmckpt.saving.dedup import DedupTable


def resolve(
    table: DedupTable, first_page: int, hashes: list[int], kinds: bytes = b""
) -> list[tuple[int, int]]:
    return table.resolve(first_page, kinds or bytes([STORED]) * len(hashes), memoryview(array("Q", hashes)))


@given(st.lists(st.lists(st.integers(0, 40), max_size=20), max_size=10))
def test_a_page_is_found_with_the_first_page_of_its_hash(batches: list[list[int]]) -> None:
    table, known, page = DedupTable(400), dict[int, int](), 0
    for hashes in batches:
        expected = []
        for index, value in enumerate(hashes):
            if known.setdefault(value, page + index) != page + index:
                expected.append((index, known[value]))
        assert resolve(table, page, hashes) == expected
        page += len(hashes)


def test_zero_and_pattern_pages_are_neither_looked_up_nor_entered() -> None:
    table = DedupTable(10)
    assert resolve(table, 0, [7, 7, 7], bytes([ZERO, PATTERN, STORED])) == []
    assert resolve(table, 3, [7]) == [(0, 2)]


def test_hash_zero_and_page_zero_are_like_any_other() -> None:
    table = DedupTable(10)
    assert resolve(table, 0, [0, 0]) == [(1, 0)]


def test_hashes_that_share_a_place_are_told_apart() -> None:
    table = DedupTable(512)  # 1024 entries: these all have the same home
    hashes = [5 + 1024 * n for n in range(8)]
    assert resolve(table, 0, hashes) == []
    assert resolve(table, 8, hashes) == [(n, n) for n in range(8)]


def test_a_crowded_place_forgets_rather_than_grows_and_never_mistakes() -> None:
    table = DedupTable(512)
    hashes = [5 + 1024 * n for n in range(20)]
    resolve(table, 0, hashes)
    for index, first in resolve(table, 20, hashes):
        assert hashes[index] == hashes[first]


def test_the_table_does_not_grow_past_its_bound() -> None:
    table = DedupTable(1 << 40)
    assert len(table._hashes) == len(table._pages) == dedup._MOST_ENTRIES
