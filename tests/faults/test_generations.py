"""Memory blocks that were written again: the map's version counts, references to the earlier one keep their meaning."""

from pathlib import Path

import pytest

from tests.support.craft import Parts, Record, seal, take_apart
from tests.support.memory import pages_of
from vmckpt import api
from vmckpt.checkpoint.codec import RAW
from vmckpt.checkpoint.format import DUPLICATE, REFERENCE, STORED, BlockRecord
from vmckpt.hashing import page_hash
from vmckpt.layout import PAGE_BYTES

# Memory as it is saved first: block 0 is stored, block 1 repeats its pages in another order.
FIRST = [10, 11, 12, 13]
BLOCK_BYTES = 4 * PAGE_BYTES


def stored_record(
    number: int, generation: int, numbers: list[int], payload_offset: int
) -> tuple[Record, bytes]:
    content = pages_of(numbers)
    hashes = b"".join(
        page_hash(content[at : at + PAGE_BYTES]).to_bytes(8, "little")
        for at in range(0, len(content), PAGE_BYTES)
    )
    fixed = BlockRecord(number, generation, payload_offset, len(content), RAW, 0, 4, 4, 0, 0, 0)
    return Record(fixed, bytes([STORED]) * 4, hashes, b"", b""), content


def rewritten(folder: Path, order: list[int], second: list[int]) -> tuple[Parts, bytes]:
    """A checkpoint in which block 0 was written again as `second`; block 1 refers to its first version in `order`."""
    memory = pages_of(FIRST) + pages_of([FIRST[index] for index in order])
    image = folder / "image"
    image.write_bytes(memory)
    made = folder / "made"
    api.save(
        str(image),
        str(made),
        codec="raw",
        memory_block_bytes=BLOCK_BYTES,
        storage_block_bytes=4 * BLOCK_BYTES,
        jobs=1,
        force=True,
    )
    parts = take_apart(made.read_bytes())
    storage = parts.storages[0]
    assert storage.records[1].kinds == bytes([DUPLICATE]) * 4
    assert [entry[2] for entry in REFERENCE.iter_unpack(storage.records[1].references)] == order
    record, content = stored_record(0, 1, second, len(storage.payload))
    storage.records.append(record)
    storage.payload += content
    parts.map_entries[0] = (0, 2, 0)
    memory_blocks = len(storage.records)
    parts.recount()
    parts.summary = parts.summary._replace(
        stored_pages=4, duplicate_pages=4, zero_pages=0, memory_blocks=memory_blocks
    )
    return parts, pages_of(second) + memory[BLOCK_BYTES:]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 1, 2], [2, 2, 2, 2]], ids=str)
@pytest.mark.parametrize(
    "second", [[20, 21, 22, 23], [13, 12, 11, 10], [10, 20, 12, 22]], ids=["other", "turned", "partly"]
)
def test_duplicates_of_a_page_that_was_written_again_keep_their_content(
    order: list[int], second: list[int], tmp_path: Path
) -> None:
    parts, memory = rewritten(tmp_path, order, second)
    path, out = tmp_path / "rewritten", tmp_path / "out"
    path.write_bytes(seal(parts))
    assert api.verify(str(path), jobs=1).problems == ()
    for jobs in (1, 2):
        api.restore(str(path), str(out), jobs=jobs, force=True)
        assert out.read_bytes() == memory
    image = tmp_path / "memory"
    image.write_bytes(memory)
    assert api.digest(str(path)) == api.digest(str(image))
    api.convert(str(path), str(tmp_path / "converted"), jobs=1)
    api.restore(str(tmp_path / "converted"), str(out), jobs=1, force=True)
    assert out.read_bytes() == memory


def test_a_rebuilt_index_leads_to_the_latest_version(tmp_path: Path) -> None:
    parts, memory = rewritten(tmp_path, [3, 1, 2, 0], [20, 21, 22, 23])
    path, out = tmp_path / "rewritten", tmp_path / "out"
    path.write_bytes(seal(parts)[:-1])
    api.rebuild_index(str(path), str(tmp_path / "new"))
    assert api.verify(str(tmp_path / "new"), jobs=1).ok
    api.restore(str(tmp_path / "new"), str(out), jobs=1)
    assert out.read_bytes() == memory


@pytest.mark.parametrize(
    ("pages", "firsts", "runs"),
    [
        ([0, 1, 2], [5, 6, 7], [(0, 3)]),
        ([0, 1, 2], [-1, 0, 1], [(0, 1), (1, 3)]),
        ([0, 1, 2], [-1, -1, 0], [(0, 1), (1, 2), (2, 3)]),
        ([0, 1, 3], [5, 6, 7], [(0, 2), (2, 3)]),
        ([4, 5], [7, 7], [(0, 1), (1, 2)]),
    ],
)
def test_runs_of_duplicates_never_begin_with_a_page_that_is_not_in_the_image(
    pages: list[int], firsts: list[int], runs: list[tuple[int, int]]
) -> None:
    from vmckpt.restoring.eager import _runs

    assert list(_runs(pages, firsts)) == runs
