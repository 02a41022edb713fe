"""The table through spilled files is the table of all hashes at once."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sharing.memories import Memory, fleets, hashes_of_memory
from vmckpt import api
from vmckpt.errors import IoError, UsageError
from vmckpt.machine.image import create_image
from vmckpt.pages import Source
from vmckpt.sharing.engine import LEAST_MEMORY_BYTES, Spill, spilled_table
from vmckpt.sharing.hashes import hashes_of
from vmckpt.sharing.table import SharingTable, table_of, table_of_parts


def same(one: SharingTable, other: SharingTable) -> bool:
    columns = ("page_counts", "zero_pages", "places", "starts", "hashes")
    return one.distinct == other.distinct and all(
        np.array_equal(getattr(one, column), getattr(other, column)) for column in columns
    )


@settings(deadline=None)  # it opens 256 files
@given(fleets(), st.sampled_from([1, 3, 1000]), st.sampled_from([1, 2, 1000]))
def test_spilled_rows_give_the_table(
    fleet: list[tuple[Memory, int]], buffer_rows: int, piece_rows: int
) -> None:
    images = [hashes_of_memory(memory) for memory, _ in fleet]
    with Spill(LEAST_MEMORY_BYTES) as spill:
        spill._buffer, spill._piece_rows = spill._buffer[:buffer_rows].copy(), piece_rows
        for image in images:
            spill.add(image.pages, image.hashes)
            spill.end_image(image.page_count)
        equals = list(spill.equals())
    expected = table_of(images)
    assert same(table_of_parts(expected.page_counts, expected.zero_pages, equals), expected)


def test_sources_are_taken_one_after_the_other_and_no_file_is_left(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"guest-{number}.raw") for number in range(3)]
    for number, path in enumerate(paths):
        create_image(path, 8 << 20, seed=number)

    def opened() -> Iterator[Source]:
        for path in paths:
            with api.open_source(path) as source:
                yield source

    spilled = tmp_path / "spilled"
    spilled.mkdir()
    found = spilled_table(opened(), memory_limit_bytes=LEAST_MEMORY_BYTES, jobs=2, directory=str(spilled))
    assert same(found.table, table_of([hashes_of(source, jobs=2) for source in opened()]))
    assert [image.source for image in found.images] == paths
    assert os.listdir(spilled) == []


def test_a_limit_too_small_to_sort_in_is_refused() -> None:
    with pytest.raises(UsageError, match="too little"):
        Spill(LEAST_MEMORY_BYTES - 1)


def test_a_directory_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(IoError, match=r"none.*cannot make files to spill to"):
        Spill(LEAST_MEMORY_BYTES, str(tmp_path / "none"))


def test_a_full_disk_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, _: object) -> int:
            raise OSError(28, "No space left on device")

    with Spill(LEAST_MEMORY_BYTES) as spill:
        monkeypatch.setattr(spill, "_files", [Full()] * 256)
        spill.add(np.arange(5, dtype=np.uint32), np.arange(5, dtype=np.uint64))
        with pytest.raises(IoError, match="No space left"):
            list(spill.equals())


def test_what_was_spilled_and_is_short_is_an_error() -> None:
    with Spill(LEAST_MEMORY_BYTES) as spill:
        spill.add(np.arange(50, dtype=np.uint32), np.arange(50, dtype=np.uint64))
        spill._write()
        os.truncate(spill._files[0].fileno(), 20)
        with pytest.raises(IoError, match="is short"):
            list(spill.equals())
