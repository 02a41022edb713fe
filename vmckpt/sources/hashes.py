"""The hash of every page of a source, in page order, computed on all cores.

In: a source. Out: ranges of pages with their hashes; pages in between are zero. The digest of an image is made of them.
"""

import mmap
from array import array
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from vmckpt.checkpoint.reader import Checkpoint
from vmckpt.hashing import ZERO_PAGE_HASH, Digest, page_hashes
from vmckpt.pages import PAGE_BYTES, PageRange, PageReader, Source, blocks_of
from vmckpt.reports import Progress
from vmckpt.workers import Channel, Crew

__all__ = ["digest_of", "hash_pages"]

_BATCH_PAGES = 512
_READ_PAGES = (
    64  # at a time, so that they are still in the core's own cache when they are hashed: a quarter faster
)
_UNIT_PAGES = 16  # zero test first: four times as fast as sixteen hashes
_UNIT_BYTES = _UNIT_PAGES * PAGE_BYTES
_ZEROS = bytearray(_UNIT_BYTES)  # bytearray == memoryview is a memcmp; memoryview == bytearray is not
_ZERO_HASHES = array("Q", [ZERO_PAGE_HASH] * _UNIT_PAGES)
_SLOTS_EACH = 4


class _Work(NamedTuple):
    source: PageReader
    hashes: memoryview
    """uint64, `_BATCH_PAGES` for each slot."""

    def serve(self, channel: Channel) -> None:
        """Hash the page ranges that the coordinator names."""
        data = memoryview(bytearray(_READ_PAGES * PAGE_BYTES))
        for message in channel.messages():
            slot, start, end = memoryview(message).cast("Q").tolist()
            at = slot * _BATCH_PAGES - start
            for first in range(start, end, _READ_PAGES):
                pages = PageRange(first, min(first + _READ_PAGES, end))
                content = data[: pages.pages * PAGE_BYTES]
                self.source.read(pages, content)
                self.hashes[at + pages.start : at + pages.end] = _hashes_of(content)
            channel.send(message[:8])


def _hashes_of(content: memoryview) -> "array[int]":
    hashes = array("Q")
    for first in range(0, len(content), _UNIT_BYTES):
        unit = content[first : first + _UNIT_BYTES]
        hashes.extend(_ZERO_HASHES if unit == _ZEROS else page_hashes(unit))
    return hashes


def hash_pages(source: Source, *, jobs: int) -> Iterator[tuple[PageRange, memoryview]]:
    """Page ranges in order, each with its hashes (little-endian, 8 bytes each, valid until the next is asked for).

    Raises:
        IoError, ChangedError, CorruptionError: as reading the source says.
        WorkerError: a worker was killed.
    """
    shared = memoryview(mmap.mmap(-1, jobs * _SLOTS_EACH * _BATCH_PAGES * 8))
    hashes = shared.cast("Q")
    free = deque((slot, slot % jobs) for slot in range(jobs * _SLOTS_EACH))
    under_way: deque[tuple[int, int, PageRange]] = deque()
    done: set[int] = set()
    plan = _batches(source)
    with Crew(jobs, _Work(source, hashes).serve) as crew:
        batch = next(plan, None)
        while batch is not None or under_way:
            while free and batch is not None:
                slot, worker = free.popleft()
                crew.send(worker, b"".join(n.to_bytes(8, "little") for n in (slot, *batch)))
                under_way.append((slot, worker, batch))
                batch = next(plan, None)
            done.update(int.from_bytes(answer, "little") for _, answer in crew.receive())
            while under_way and under_way[0][0] in done:
                slot, worker, pages = under_way.popleft()
                at = slot * _BATCH_PAGES * 8
                yield pages, shared[at : at + pages.pages * 8]
                done.remove(slot)
                free.append((slot, worker))


def _batches(source: Source) -> Iterator[PageRange]:
    # Rounded to units: a gap of less is not worth a batch of its own.
    for start, end in blocks_of(source.data_ranges(), _UNIT_PAGES, source.layout.page_count):
        for first in range(start, end, _BATCH_PAGES):
            yield PageRange(first, min(first + _BATCH_PAGES, end))


def digest_of(source: Source, *, jobs: int, progress: Progress | None = None) -> bytes:
    """The digest of the source's memory; a checkpoint's follows from the hashes that it keeps.

    Raises:
        ChangedError: the source changed meanwhile; else what `hash_pages` raises.
    """
    if isinstance(source, Checkpoint):
        return source.computed_digest()
    digest = Digest()
    for pages, hashes in hash_pages(source, jobs=jobs):
        digest.add_zeros(pages.start - digest.pages)
        digest.add(hashes)
        if progress is not None:
            progress(pages.end * PAGE_BYTES, source.layout.memory_bytes)
    digest.add_zeros(source.layout.page_count - digest.pages)
    source.check_unchanged()
    return digest.bytes()
