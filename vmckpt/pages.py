"""Page numbers, ranges of pages, and the protocol every holder of guest memory answers.

A *page number* counts the 4 KiB pages of guest memory in guest-physical order, holes left out: page 0 is the first
page of the first region (`layout`). All ranges are half-open.
"""

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from vmckpt.layout import PAGE_BYTES, Layout

__all__ = ["PAGE_BYTES", "ZERO_PAGE", "Buffer", "PageRange", "PageReader", "Source", "blocks_of", "page_view"]

Buffer = bytes | bytearray | memoryview
"""Whatever holds bytes side by side."""

ZERO_PAGE = bytes(PAGE_BYTES)


class PageRange(NamedTuple):
    """The pages `start`, `start + 1`, ... `end - 1`."""

    start: int
    end: int

    @property
    def pages(self) -> int:
        """How many pages the range holds."""
        return self.end - self.start


class PageReader(Protocol):
    """Guest memory that can be read by page number."""

    @property
    def layout(self) -> Layout:
        """Which guest-physical addresses the page numbers stand for."""

    def read(self, pages: PageRange, into: memoryview) -> None:
        """Fill `into` (bytes, `pages.pages * PAGE_BYTES` of them) with the content of `pages`.

        Raises:
            IoError: the read failed.
            ChangedError: what was there when the reader was opened is there no more.
            CorruptionError: the bytes contradict their checksums.
        """


class Source(PageReader, Protocol):
    """A page reader that can be saved, digested and compared."""

    @property
    def name(self) -> str:
        """What to call it in messages: the path as given, or `-`."""

    @property
    def kind(self) -> str:
        """`raw`, `elf` or `checkpoint`."""

    @property
    def identity(self) -> bytes:
        """Bytes that differ between two sources, and between two states of one (device, inode, size, time)."""

    @property
    def modified_ns(self) -> int:
        """When the memory was taken, as far as known: nanoseconds since 1970."""

    def data_ranges(self) -> Iterator[PageRange]:
        """Ascending, disjoint ranges outside which every page is known to be zero without reading it."""

    def check_unchanged(self) -> None:
        """Raise ChangedError if the source was written to since it was opened."""

    def close(self) -> None:
        """Give up what the source holds open."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def blocks_of(ranges: Iterable[PageRange], block_pages: int, page_count: int) -> Iterator[PageRange]:
    """The aligned blocks of `block_pages` pages that `ranges` (ascending) touch, each once, joined where adjacent.

    The last block ends at `page_count`.
    """
    start = end = 0
    for low, high in ranges:
        if low >= high:
            continue  # it touches no block
        low_block = low // block_pages * block_pages
        high_block = min(-(-high // block_pages) * block_pages, page_count)
        if low_block <= end and end > start:
            end = max(end, high_block)
            continue
        if end > start:
            yield PageRange(start, end)
        start, end = low_block, high_block
    if end > start:
        yield PageRange(start, end)


def page_view(buffer: memoryview, index: int) -> memoryview:
    """The page at `index` of a buffer of whole pages."""
    return buffer[index * PAGE_BYTES : (index + 1) * PAGE_BYTES]
