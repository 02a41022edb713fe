"""Which pages came with those that were asked for."""

from pathlib import Path

from tests.restoring.samples import checkpoint, mixed_memory, page_of
from vmckpt.bench.fetched import Fetched, fetched_by, pages_by_storage_block
from vmckpt.restoring.log import Fault, FaultKind


def fault(page: int, storage_block: int | None, kind: FaultKind = FaultKind.READ) -> Fault:
    return Fault(0, 0, page, 0, kind, storage_block, 0, False)


def test_a_blocks_other_pages_are_all_but_the_one_it_was_read_for() -> None:
    pages = {0: [0, 1, 2, 3], 1: [4, 5], 2: [6, 7, 8]}
    faults = [fault(1, 0), fault(2, 0, FaultKind.HELD), fault(4, 1), fault(9, None, FaultKind.ZERO)]
    assert fetched_by(faults, pages, {1, 2, 4, 6}) == Fetched(2, 4, 1)
    assert Fetched(2, 4, 1).share == 0.25


def test_a_block_that_is_read_again_counts_once() -> None:
    assert fetched_by([fault(0, 0), fault(1, 0)], {0: [0, 1]}, {0, 1}) == Fetched(1, 1, 1)


def test_nothing_fetched_has_no_share() -> None:
    assert fetched_by([], {}, ()).share is None


def test_the_pages_of_storage_blocks_are_those_that_are_not_zero(tmp_path: Path) -> None:
    memory = mixed_memory(64)
    found = pages_by_storage_block(checkpoint(tmp_path / "guest.vmckpt", memory))
    assert sorted(page for pages in found.values() for page in pages) == [
        page for page in range(64) if any(page_of(memory, page))
    ]
