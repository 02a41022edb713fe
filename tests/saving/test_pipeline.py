"""Batches through workers into a file, for a feed that changes its mind: what the file says is what was saved last."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.checkpoint.files import KIB, header_of
from tests.checkpoint.plans import page
from tests.support import ckptreader
from tests.support.memory import page_bytes, read_all
from vmckpt import api
from vmckpt.checkpoint.codec import choose
from vmckpt.checkpoint.reader import Checkpoint
from vmckpt.checkpoint.writer import CheckpointWriter
from vmckpt.kernel.memory import create_memfd
from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.reports import PageCounts
from vmckpt.saving.latest import LatestTally
from vmckpt.saving.pipeline import Batch, Pipeline
from vmckpt.sources.memory import memory_source

BLOCK_PAGES = 4
BLOCK_BYTES = BLOCK_PAGES * PAGE_BYTES
BLOCKS = 10
PAGES = BLOCKS * BLOCK_PAGES - 1  # the last block is short
JOBS = pytest.mark.parametrize("jobs", [1, 3])


class Memory:
    """Memory that changes while it is saved; workers that were forked before see it as well."""

    def __init__(self) -> None:
        self.fd = create_memfd("memory", PAGES * PAGE_BYTES)
        for number in range(PAGES):
            self.write(number, page(number + 1))

    def write(self, number: int, content: bytes) -> None:
        os.pwrite(self.fd, content, number * PAGE_BYTES)

    def write_block(self, block: int, content: bytes) -> None:
        for number in range(block * BLOCK_PAGES, min((block + 1) * BLOCK_PAGES, PAGES)):
            self.write(number, content)

    def content(self) -> bytes:
        return os.pread(self.fd, PAGES * PAGE_BYTES, 0)


@pytest.fixture
def memory() -> Iterator[Memory]:
    memory = Memory()
    yield memory
    os.close(memory.fd)


class Round(NamedTuple):
    """Batches that are handed out once all before them are in the file, and what happens first."""

    batches: Sequence[Batch]
    change: Callable[[], None] = lambda: None


class Feed:
    """Rounds, and what is said of what was read of them."""

    def __init__(
        self,
        *rounds: Round,
        intact: Callable[[Batch], Batch | None] = lambda batch: batch,
        steady: Callable[[int], bool] = lambda _: True,
    ) -> None:
        self.steady = steady
        self.finished: list[Batch] = []
        self._intact = intact
        self._rounds = list(rounds)
        self._todo: list[Batch] = []
        self._under_way = 0

    def next(self) -> Batch | None:
        while not self._todo and not self._under_way and self._rounds:
            batches, change = self._rounds.pop(0)
            change()
            self._todo = list(batches)
        if not self._todo:
            return None
        self._under_way += 1
        return self._todo.pop(0)

    def intact(self, batch: Batch) -> Batch | None:
        found = self._intact(batch)
        self._under_way -= found is None
        return found

    def done(self, batch: Batch) -> None:
        self._under_way -= 1
        self.finished.append(batch)


class Saved(NamedTuple):
    """What came of it."""

    file: ckptreader.Dump
    memory: bytes
    """As the product's own reader has it."""
    counts: PageCounts


def batches(*blocks: tuple[int, ...], stream: int = 0, generation: int = 0) -> list[Batch]:
    return [Batch(each, stream, generation) for each in blocks]


EVERY = batches(*((block, block + 1) for block in range(0, BLOCKS, 2)))


def save(memory: Memory, feed: Feed, path: Path, *, jobs: int = 1, dedup: bool = True) -> Saved:
    choice = choose("lz4")._replace(memory_block_bytes=BLOCK_BYTES)
    layout = Layout.flat(PAGES * PAGE_BYTES)
    header = header_of(layout, codec=choice.codec, storage_block_bytes=64 * KIB)
    tally = LatestTally(PAGES, BLOCK_PAGES)
    with (
        open(path, "w+b", buffering=0) as file,
        memory_source(os.dup(memory.fd), layout) as source,
    ):
        writer = CheckpointWriter(file.fileno(), header, layout, path=os.fspath(path))
        dedup_pages = PAGES if dedup else 0
        Pipeline(source, writer, feed, tally, choice=choice, jobs=jobs, dedup_pages=dedup_pages).run()
        writer.finish(tally.digest(), tally.counts())
    assert api.verify(os.fspath(path), jobs=1).problems == ()
    with Checkpoint.open(os.fspath(path)) as checkpoint:
        return Saved(ckptreader.read(path.read_bytes()), read_all(checkpoint), tally.counts())


@JOBS
def test_each_block_once_is_memory(memory: Memory, jobs: int, tmp_path: Path) -> None:
    feed = Feed(Round(EVERY))
    saved = save(memory, feed, tmp_path / "c", jobs=jobs)
    assert saved.memory == saved.file.memory == memory.content()
    assert feed.finished == EVERY


@JOBS
@pytest.mark.parametrize("again", [((2,), (5,)), ((2, 5),)], ids=["alone", "beside another block"])
def test_a_later_version_counts_and_so_does_one_of_zeros(
    memory: Memory, again: tuple[tuple[int, ...], ...], jobs: int, tmp_path: Path
) -> None:
    memory.write_block(7, bytes(PAGE_BYTES))

    def change() -> None:
        memory.write_block(2, bytes(PAGE_BYTES))
        memory.write_block(5, page(100))

    def change_back() -> None:
        memory.write_block(2, page(101))
        memory.write_block(5, bytes(PAGE_BYTES))

    first = Round(batches(*again, generation=1), change)
    second = Round(batches(*again, generation=2), change_back)
    saved = save(memory, Feed(Round(EVERY), first), tmp_path / "first", jobs=jobs)
    assert saved.memory == saved.file.memory
    assert saved.memory[2 * BLOCK_BYTES : 3 * BLOCK_BYTES] == bytes(BLOCK_BYTES)
    assert saved.memory[5 * BLOCK_BYTES : 6 * BLOCK_BYTES] == page(100) * BLOCK_PAGES
    assert saved.memory == memory.content()
    assert saved.counts.zero == 2 * BLOCK_PAGES
    for block in (2, 5):
        memory.write_block(block, page(block))
    saved = save(memory, Feed(Round(EVERY), first, second), tmp_path / "second", jobs=jobs)
    assert saved.memory == saved.file.memory == memory.content()


@JOBS
def test_a_batch_that_got_smaller_is_read_again_and_the_rest_is_not_saved(
    memory: Memory, jobs: int, tmp_path: Path
) -> None:
    def intact(batch: Batch) -> Batch:
        if 3 not in batch.blocks or len(batch.blocks) == 1 or batch.generation:
            return batch
        memory.write_block(2, page(200))  # what was read of it counts no more
        return batch._replace(blocks=(2,))

    feed = Feed(Round(EVERY), intact=intact)
    saved = save(memory, feed, tmp_path / "c", jobs=jobs)
    expected = bytearray(memory.content())
    expected[3 * BLOCK_BYTES : 4 * BLOCK_BYTES] = bytes(BLOCK_BYTES)
    assert saved.memory == saved.file.memory == expected
    assert Batch((2,)) in feed.finished
    later = Feed(Round(EVERY), Round(batches((3,))), intact=intact)
    assert save(memory, later, tmp_path / "later", jobs=jobs).memory == memory.content()


@JOBS
def test_a_batch_of_which_nothing_is_left_is_not_saved(memory: Memory, jobs: int, tmp_path: Path) -> None:
    dropped = [EVERY[1], EVERY[4]]
    feed = Feed(Round(EVERY), intact=lambda batch: None if batch in dropped else batch)
    saved = save(memory, feed, tmp_path / "c", jobs=jobs)
    expected = bytearray(memory.content())
    for block in (2, 3, 8, 9):
        start, end = block * BLOCK_BYTES, min((block + 1) * BLOCK_BYTES, len(expected))
        expected[start:end] = bytes(end - start)
    assert saved.memory == saved.file.memory == expected
    assert feed.finished == [batch for batch in EVERY if batch not in dropped]


def test_nothing_of_anything_is_memory_of_zeros(memory: Memory, tmp_path: Path) -> None:
    saved = save(memory, Feed(Round(EVERY), intact=lambda _: None), tmp_path / "c")
    assert saved.memory == saved.file.memory == bytes(PAGES * PAGE_BYTES)


@JOBS
def test_a_batch_that_is_to_be_read_again_is_read_until_it_is_intact(
    memory: Memory, jobs: int, tmp_path: Path
) -> None:
    times = dict.fromkeys(EVERY, 0)

    def intact(batch: Batch) -> Batch:
        times[batch] += 1
        if times[batch] == 3:
            return batch
        memory.write_block(batch.blocks[0], page(times[batch] * 100 + batch.blocks[0]))
        return batch._replace()

    saved = save(memory, Feed(Round(EVERY), intact=intact), tmp_path / "c", jobs=jobs)
    assert saved.memory == saved.file.memory == memory.content()


@JOBS
@pytest.mark.parametrize(
    ("steady_for", "duplicates"),
    [(0, 0), (BLOCK_PAGES, 0), (1 << 30, BLOCK_PAGES)],
    ids=["never", "until they were judged", "always"],
)
def test_pages_equal_to_one_that_is_not_steady_are_stored(
    memory: Memory, steady_for: int, duplicates: int, jobs: int, tmp_path: Path
) -> None:
    for number in range(BLOCK_PAGES):
        memory.write(8 * BLOCK_PAGES + number, page(number + 1))  # block 8 equals block 0
    asked: list[int] = []

    def steady(number: int) -> bool:
        asked.append(number)
        return len(asked) <= steady_for

    feed = Feed(Round(batches(*((block,) for block in range(BLOCKS)))), steady=steady)
    saved = save(memory, feed, tmp_path / "c", jobs=jobs)
    assert set(asked) == set(range(BLOCK_PAGES))
    assert saved.memory == saved.file.memory == memory.content()
    references = [block.references for storage in saved.file.storage for block in storage.blocks]
    assert sum(map(len, references)) == saved.counts.duplicate == duplicates


def test_a_block_that_is_saved_again_refers_to_no_other(memory: Memory, tmp_path: Path) -> None:
    def change() -> None:
        for number in range(BLOCK_PAGES):
            memory.write(8 * BLOCK_PAGES + number, page(number + 1))

    feed = Feed(Round(EVERY), Round(batches((8,), generation=1), change))
    saved = save(memory, feed, tmp_path / "c")
    assert saved.memory == saved.file.memory == memory.content()
    assert saved.counts.duplicate == 0


@JOBS
def test_streams_stay_apart(memory: Memory, jobs: int, tmp_path: Path) -> None:
    memory.write(5 * BLOCK_PAGES, page_bytes(77))
    rounds = Round(
        [
            *batches((5, 1), stream=2),
            *batches((0, 2)),
            *batches((9,), stream=1),
            *batches((3,), stream=2),
            *batches((4, 6, 7, 8)),
        ]
    )
    again = Round(batches((9, 0), stream=1, generation=1))
    saved = save(memory, Feed(rounds, again), tmp_path / "c", jobs=jobs)
    assert saved.memory == saved.file.memory == memory.content()
    found: dict[int, list[int]] = {}
    for storage in saved.file.storage:
        found.setdefault(storage.stream, []).extend(block.number for block in storage.blocks)
    assert found == {0: [0, 2, 4, 6, 7, 8], 1: [9, 9, 0], 2: [5, 1, 3]}


def test_without_dedup_nobody_is_asked_whether_a_page_is_steady(memory: Memory, tmp_path: Path) -> None:
    memory.write(20, page(1))
    asked: list[int] = []

    def steady(number: int) -> bool:
        asked.append(number)
        return True

    saved = save(memory, Feed(Round(EVERY), steady=steady), tmp_path / "c", dedup=False)
    assert saved.memory == memory.content()
    assert (asked, saved.counts.duplicate) == ([], 0)
