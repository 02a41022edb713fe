"""Saving memory at rest: every block once, in the order of a plan, so that equal requests give equal files.

    block numbers in the file's order ─▶ RestFeed ─▶ Pipeline (workers) ─▶ file          RunningTally ─▶ counts, digest

Called by `source`.
"""

from collections.abc import Iterable
from typing import NamedTuple

from vmckpt.checkpoint.codec import Choice
from vmckpt.checkpoint.format import DUPLICATE, PATTERN, STORED
from vmckpt.checkpoint.writer import CheckpointWriter
from vmckpt.hashing import Digest
from vmckpt.pages import PAGE_BYTES, Source
from vmckpt.reports import PageCounts, Progress
from vmckpt.saving.order import batches
from vmckpt.saving.pipeline import Batch, Pipeline, batch_blocks

__all__ = ["Saved", "save_at_rest"]


class Saved(NamedTuple):
    """What a save put into the file."""

    counts: PageCounts
    digest: bytes | None
    """Of the memory; None where blocks were not written in page order."""


def save_at_rest(
    source: Source,
    writer: CheckpointWriter,
    blocks: Iterable[int],
    *,
    choice: Choice,
    jobs: int,
    dedup: bool = True,
    in_page_order: bool = True,
    data_pages: int = 0,
    progress: Progress | None = None,
) -> Saved:
    """Write memory blocks of `source`; every page outside of them is taken for zero.

    Args:
        source: read by the workers, so it must stand being used after a fork.
        writer: a checkpoint with its header written.
        blocks: memory block numbers in the order of the file.
        choice: codec, level and memory block size, as in the writer's header.
        jobs: worker processes.
        dedup: whether equal pages are stored once.
        in_page_order: `blocks` ascends, so that the digest can be told on the way.
        data_pages: how many pages `blocks` stands for, for the size of the dedup table and for progress.
        progress: told after each batch.

    Raises:
        IoError: reading or writing failed.
        ChangedError: the source shrank meanwhile.
        WorkerError: a worker was killed.
    """
    tally = _RunningTally(source.layout.page_count, choice, in_page_order=in_page_order)
    feed = _RestFeed(blocks, choice, data_pages, progress)
    pipeline = Pipeline(
        source, writer, feed, tally, choice=choice, jobs=jobs, dedup_pages=data_pages if dedup else 0
    )
    pipeline.run()
    return tally.saved()


class _RestFeed:
    """Batches of a plan. Memory at rest stays what it was; whether it did is asked of the source in the end."""

    def __init__(
        self, blocks: Iterable[int], choice: Choice, data_pages: int, progress: Progress | None
    ) -> None:
        self._batches = batches(blocks, batch_blocks(choice))
        self._block_bytes = choice.memory_block_bytes
        self._total_bytes = data_pages * PAGE_BYTES
        self._done_bytes = 0
        self._progress = progress

    def next(self) -> Batch | None:
        blocks = next(self._batches, None)
        return None if blocks is None else Batch(blocks)

    def intact(self, batch: Batch) -> Batch:
        return batch

    def steady(self, page: int) -> bool:
        del page
        return True

    def done(self, batch: Batch) -> None:
        self._done_bytes += len(batch.blocks) * self._block_bytes
        if self._progress is not None:  # memory's last block may be short
            self._progress(min(self._done_bytes, self._total_bytes), self._total_bytes)


class _RunningTally:
    """Counts, and the digest for as long as blocks come in page order: what lies between them is zero."""

    def __init__(self, page_count: int, choice: Choice, *, in_page_order: bool) -> None:
        self._page_count = page_count
        self._block_pages = choice.memory_block_bytes // PAGE_BYTES
        self._digest = Digest() if in_page_order else None
        self._counts = [0] * 5

    def add(self, number: int, kinds: bytes, hashes: memoryview) -> None:
        for kind in (STORED, PATTERN, DUPLICATE):
            self._counts[kind] += kinds.count(kind)
        if self._digest is not None:
            self._digest.add_zeros(number * self._block_pages - self._digest.pages)
            self._digest.add(hashes.cast("B"))

    def saved(self) -> Saved:
        stored, pattern, duplicate = (self._counts[kind] for kind in (STORED, PATTERN, DUPLICATE))
        zero = self._page_count - stored - pattern - duplicate
        counts = PageCounts(self._page_count, zero, pattern, duplicate, stored)
        if self._digest is None:
            return Saved(counts, None)
        self._digest.add_zeros(self._page_count - self._digest.pages)
        return Saved(counts, self._digest.bytes())
