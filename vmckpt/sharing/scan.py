"""One pass over the page hashes of a source, of which nothing stays in memory but what the caller keeps.

    source ─▶ hashes in page order ─▶ zero pages counted and left out ─▶ `each` (page numbers, hashes)

Called by what samples, sketches and spills. Zero pages are counted exactly, all of them and those of each large page.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vmckpt.hashing import ZERO_PAGE_HASH
from vmckpt.layout import Layout
from vmckpt.pages import PAGE_BYTES, PageRange, Source
from vmckpt.reports import Progress
from vmckpt.sharing.hashes import Hashes, PageHashes, PageNumbers, active_of, hash_batches, number_type
from vmckpt.sharing.large import LargePages, large_pages_of
from vmckpt.sharing.table import Numbers

__all__ = ["Batch", "Each", "Scanned", "counted_large_pages", "data_of", "large_pages_in", "scan"]

Each = Callable[[PageNumbers, Hashes], None]
"""Takes the next pages that are not zero, in page order: their numbers, and the hash of each."""

_AT_A_TIME_PAGES = 1 << 16

Batch = tuple[PageRange, memoryview | bytes]
"""A range of pages, and the hash of each, 8 bytes long."""


@dataclass(frozen=True, slots=True)
class Scanned:
    """What is known of an image once it was read, whatever was kept of its hashes."""

    source: str
    """What to call it: the path as given."""
    layout: Layout
    """Which guest-physical addresses the page numbers stand for."""
    zero_pages: int
    """Small pages that are zero; exact."""
    data_pages: Numbers | None = None
    """Small pages that are not zero in each of its large pages, in their order; exact. None: not asked for."""
    active: Numbers | None = None
    """Pages that were touched while the memory was saved, in that order; None: not known."""

    @property
    def page_count(self) -> int:
        """Small pages, zero ones included."""
        return self.layout.page_count


def scan(
    source: Source, each: Each, *, jobs: int, large_page_bytes: int = 0, progress: Progress | None = None
) -> Scanned:
    """Hash every page of `source` once, and hand over those that are not zero.

    Args:
        source: what to read.
        each: takes the pages; what it wants to keep it copies.
        jobs: processes that hash.
        large_page_bytes: count zero pages of large pages of this size; 0: of none.
        progress: told how far it has come.

    Raises:
        ChangedError: the source changed meanwhile.
        IoError, CorruptionError: as reading the source says.
        WorkerError: a worker was killed.
    """
    large = large_pages_in(source.name, source.layout, large_page_bytes)
    counts = None if large is None else np.zeros(len(large), np.int64)
    data_pages = 0
    for pages, hashes in data_of(hash_batches(source, jobs=jobs)):
        if large is not None and counts is not None:
            counts += np.bincount(large.of(pages), minlength=len(large))
        data_pages += len(pages)
        each(pages.astype(number_type(source.layout)), hashes)
        if progress is not None and len(pages):
            progress((int(pages[-1]) + 1) * PAGE_BYTES, source.layout.memory_bytes)
    source.check_unchanged()
    zero = source.layout.page_count - data_pages
    return Scanned(source.name, source.layout, zero, counts, active_of(source))


def data_of(batches: Iterator[Batch]) -> Iterator[tuple[Numbers, Hashes]]:
    """Pages that are not zero and their hashes, many thousands at a time."""
    numbers: list[Numbers] = []
    hashes: list[Hashes] = []
    held = 0
    for pages, packed in batches:
        numbers.append(np.arange(pages.start, pages.end))
        hashes.append(np.frombuffer(packed, "<u8").astype(np.uint64))  # a copy: the memory is used again
        held += pages.pages
        if held >= _AT_A_TIME_PAGES:
            yield _data(numbers, hashes)
            held = 0
    if held:
        yield _data(numbers, hashes)


def _data(numbers: list[Numbers], hashes: list[Hashes]) -> tuple[Numbers, Hashes]:
    # Empties both lists.
    all_hashes = np.concatenate(hashes)
    data = all_hashes != ZERO_PAGE_HASH
    result = np.concatenate(numbers)[data], all_hashes[data]
    numbers.clear()
    hashes.clear()
    return result


def counted_large_pages(images: Sequence[Scanned], large_page_bytes: int) -> LargePages:
    """The large pages of all images, as `large_pages_of` lays them out, from the counts that `scan` made."""
    laid = large_pages_of([_nothing_of(image.source, image.layout) for image in images], large_page_bytes)
    counts = [image.data_pages for image in images]
    data = np.concatenate([count for count in counts if count is not None])
    return LargePages(
        laid.images, laid.numbers, laid.small_pages, laid.small_pages - data, laid.run_places, laid.run_large
    )


def large_pages_in(source: str, layout: Layout, large_page_bytes: int) -> LargePages | None:
    """The large pages of one image, zero pages not yet counted; None for a size of 0."""
    return large_pages_of([_nothing_of(source, layout)], large_page_bytes) if large_page_bytes else None


def _nothing_of(source: str, layout: Layout) -> PageHashes:
    return PageHashes(source, layout, np.empty(0, np.uint32), np.empty(0, np.uint64))
