"""The page hashes of a source, as columns: what everything in this room is computed from.

In: an open source. A checkpoint brings the hashes that it keeps, and no page of it is read; any other source is read
once, on all cores. Out: `PageHashes`, twelve bytes for each page that is not zero, and nothing for a zero page.
Called by `api`, and by whoever hashes for a fleet.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vmckpt.checkpoint.reader import Checkpoint
from vmckpt.hashing import ZERO_PAGE_HASH
from vmckpt.layout import Layout
from vmckpt.pages import PAGE_BYTES, Source
from vmckpt.reports import Progress
from vmckpt.sources.hashes import hash_pages

__all__ = ["Hashes", "PageHashes", "PageNumbers", "hashes_of"]

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
    checkpoint = source if isinstance(source, Checkpoint) else None
    batches = hash_pages(source, jobs=jobs) if checkpoint is None else checkpoint.kept_hashes()
    number: type[np.uint32 | np.int64] = (
        np.uint32 if source.layout.page_count <= _SMALL_PAGE_NUMBERS else np.int64
    )
    pages: list[PageNumbers] = []
    hashes: list[Hashes] = []
    for batch, packed in batches:
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
        None if checkpoint is None else _active_of(checkpoint),
    )


def _active_of(checkpoint: Checkpoint) -> npt.NDArray[np.int64] | None:
    """Its active pages; None where it has none, for then nobody looked (a machine that touches nothing is no use)."""
    active = checkpoint.active_pages()
    return np.array(active, np.int64) if active else None
