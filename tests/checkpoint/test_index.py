"""Tables that open in pieces: against a dict, at their boundaries, and when damaged."""

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmckpt.checkpoint.format import MAP_ENTRY, ROOT, ROOT_ENTRY, STORAGE_ENTRY
from vmckpt.checkpoint.index import PieceReader, PieceWriter
from vmckpt.errors import CorruptionError

EACH = 65536 // MAP_ENTRY.size
ABSENT = (0xFFFF_FFFF, 0xFFFF, 0xFFFF)


class Disk:
    """A file in memory that remembers what was read."""

    def __init__(self) -> None:
        self.data = bytearray(b"header")
        self.reads: list[int] = []

    def append(self, part: bytes) -> int:
        self.data += part
        return len(self.data) - len(part)

    def read(self, offset: int, size_bytes: int) -> bytes:
        self.reads.append(size_bytes)
        return bytes(self.data[offset : offset + size_bytes])


def written(disk: Disk, entries: Mapping[int, tuple[int, ...]], count: int) -> bytes:
    """Write a table and return its root."""
    table = PieceWriter(MAP_ENTRY)
    for index, values in entries.items():
        table[index] = values
        assert table[index] == values
    return table.write(count, disk.append)


def reader_of(disk: Disk, root: bytes, count: int) -> PieceReader:
    return PieceReader(root, MAP_ENTRY, count, disk.read, "table")


@settings(max_examples=60)
@given(
    entries=st.dictionaries(
        st.integers(0, 5 * EACH - 1), st.tuples(st.integers(0, 9), st.integers(0, 9), st.just(0)), max_size=20
    ),
    more=st.integers(1, 2 * EACH),
)
def test_a_table_is_a_dict(entries: dict[int, tuple[int, int, int]], more: int) -> None:
    count = max(entries, default=0) + more
    disk = Disk()
    table = reader_of(disk, written(disk, entries, count), count)
    pieces = {index // EACH for index in entries}
    for index in {*entries, 0, count - 1, *(max(index - 1, 0) for index in entries)}:
        assert table[index] == (entries.get(index, ABSENT) if index // EACH in pieces else None)
    assert {index: values for index, values in table.entries() if values != ABSENT} == entries
    assert len(list(table.spans())) == len(pieces)


@pytest.mark.parametrize("count", [1, EACH - 1, EACH, EACH + 1, 2 * EACH, 3 * EACH - 1])
def test_the_last_piece_has_the_entries_that_there_are(count: int) -> None:
    disk = Disk()
    root = written(disk, {index: (index, 0, 0) for index in (0, count - 1)}, count)
    table = reader_of(disk, root, count)
    assert table[count - 1] == (count - 1, 0, 0)
    end = max(offset + length for offset, length in table.spans())
    assert end == len(disk.data)
    assert [index for index, _ in table.entries()][-1] == count - 1
    assert len(root) == ROOT.size + ROOT_ENTRY.size * -(-count // EACH)


def test_an_empty_table_takes_nothing_but_its_root() -> None:
    disk = Disk()
    table = reader_of(disk, written(disk, {}, 1 << 20), 1 << 20)
    assert list(table.spans()) == []
    assert list(table.entries()) == []
    assert table[12345] is None
    assert (bytes(disk.data), disk.reads) == (b"header", [])


def test_a_table_of_no_entries_opens() -> None:
    disk = Disk()
    assert list(reader_of(disk, written(disk, {}, 0), 0).entries()) == []


def test_a_look_up_reads_one_piece_and_the_next_one_nothing() -> None:
    disk = Disk()
    table = reader_of(
        disk, written(disk, dict.fromkeys(range(0, 8 * EACH, EACH), (1, 1, 0)), 8 * EACH), 8 * EACH
    )
    assert disk.reads == []
    for index in (0, 1, EACH - 1, 3 * EACH, 3 * EACH + 1, 0):
        assert table[index] is not None
    assert disk.reads == [65536, 65536]


def test_entries_may_be_set_in_any_order_and_more_than_once() -> None:
    disk = Disk()
    table = PieceWriter(MAP_ENTRY)
    for index, value in ((2 * EACH, 1), (5, 2), (2 * EACH, 3), (0, 4)):
        table[index] = (value, 0, 0)
    back = reader_of(disk, table.write(2 * EACH + 1, disk.append), 2 * EACH + 1)
    assert (back[2 * EACH], back[5], back[0], back[1]) == ((3, 0, 0), (2, 0, 0), (4, 0, 0), ABSENT)


def test_a_damaged_piece_is_found_and_named() -> None:
    disk = Disk()
    root = written(disk, {0: (0, 0, 0), EACH: (1, 1, 0)}, 2 * EACH)
    disk.data[-1] ^= 1
    table = reader_of(disk, root, 2 * EACH)
    assert table[0] == (0, 0, 0)
    with pytest.raises(CorruptionError, match="piece 1 of the table") as caught:
        table[EACH]
    assert caught.value.offset == 6 + 65536


@pytest.mark.parametrize(
    "root",
    [
        b"",
        ROOT.pack(8, EACH, 100),
        ROOT.pack(8, EACH, 101) + bytes(16),
        ROOT.pack(16, 4096, 100) + bytes(16),
        ROOT.pack(8, EACH, 100) + bytes(32),
        ROOT.pack(8, EACH, 1 << 60) + bytes(16),
    ],
    ids=["nothing", "too-short", "other-count", "other-size", "too-long", "huge"],
)
def test_a_root_of_another_table_is_refused(root: bytes) -> None:
    with pytest.raises(CorruptionError, match="the table's root"):
        reader_of(Disk(), root, 100)


def test_entries_have_the_sizes_that_pieces_are_cut_by() -> None:
    assert (65536 % MAP_ENTRY.size, 65536 % STORAGE_ENTRY.size) == (0, 0)
