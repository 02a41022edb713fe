"""The page hashes of a source, as columns: what everything in this room is computed from.

In: an open source. A checkpoint brings the hashes that it keeps, and no page of it is read; any other source is read
once, on all cores. Out: `PageHashes`, twelve bytes for each page that is not zero, and nothing for a zero page.
Called by `api`, and by whoever hashes for a fleet.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vmckpt.checkpoint.reader import Checkpoint
from vmckpt.hashing import ZERO_PAGE_HASH
from vmckpt.layout import Layout
from vmckpt.pages import PAGE_BYTES, PageRange, Source
from vmckpt.reports import Progress
from vmckpt.sources.hashes import hash_pages

__all__ = ["Hashes", "PageHashes", "PageNumbers", "active_of", "hash_batches", "hashes_of", "number_type"]

Hashes = npt.NDArray[np.uint64]
"""XXH3-64 (seed 0) of pages."""

PageNumbers = npt.NDArray[np.uint32 | np.int64]
"""Page numbers; four bytes each up to 16 TiB of memory."""

_SMALL_PAGE_NUMBERS = 1 << 32


@dataclass(frozen=True, slots=True)
class PageHashes:
    """The small pages of one image that are not zero."""

    source: str
    """What to call it: the path as given."""
    layout: Layout
    """Which guest-physical addresses the page numbers stand for."""
    pages: PageNumbers
    """Ascending page numbers, [n]."""
    hashes: Hashes
    """Of each of them, [n]."""
    active: npt.NDArray[np.int64] | None = None
    """Pages that were touched while the memory was saved, in that order; None: not known."""

    @property
    def page_count(self) -> int:
        """Small pages, zero ones included."""
        return self.layout.page_count

    @property
    def zero_pages(self) -> int:
        """Small pages that are zero."""
        return self.layout.page_count - len(self.pages)


def hashes_of(source: Source, *, jobs: int, progress: Progress | None = None) -> PageHashes:
    """Hash every page of `source` once.

    Raises:
        ChangedError: the source changed meanwhile.
        IoError, CorruptionError: as reading the source says.
        WorkerError: a worker was killed.
    """
    number = number_type(source.layout)
    pages: list[PageNumbers] = []
    hashes: list[Hashes] = []
    for batch, packed in hash_batches(source, jobs=jobs):
        found = np.frombuffer(packed, "<u8")
        data = np.flatnonzero(found != ZERO_PAGE_HASH)
        hashes.append(found[data])  # a copy: the batch's memory is used again
        pages.append((data + batch.start).astype(number))
        if progress is not None:
            progress(batch.end * PAGE_BYTES, source.layout.memory_bytes)
    source.check_unchanged()
    return PageHashes(
        source.name,
        source.layout,
        np.concatenate(pages) if pages else np.empty(0, number),
        np.concatenate(hashes).astype(np.uint64, copy=False) if hashes else np.empty(0, np.uint64),
        active_of(source),
    )


def hash_batches(source: Source, *, jobs: int) -> Iterator[tuple[PageRange, memoryview | bytes]]:
    """Page ranges in order with their hashes, 8 bytes each, valid until the next is asked for; pages between are zero.

    Raises:
        IoError, ChangedError, CorruptionError: as reading the source says.
        WorkerError: a worker was killed.
    """
    return source.kept_hashes() if isinstance(source, Checkpoint) else hash_pages(source, jobs=jobs)


def number_type(layout: Layout) -> type[np.uint32 | np.int64]:
    """The smallest type that holds every page number of `layout`."""
    return np.uint32 if layout.page_count <= _SMALL_PAGE_NUMBERS else np.int64


def active_of(source: Source) -> npt.NDArray[np.int64] | None:
    """Its active pages; None where it tells of none, for then nobody looked (a machine that touches nothing is no use)."""
    active = source.active_pages() if isinstance(source, Checkpoint) else None
    return np.array(active, np.int64) if active else None
