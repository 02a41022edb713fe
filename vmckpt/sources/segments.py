"""Guest memory that lies in stretches of a file: what a raw image and an ELF core have in common.

In: an open file and its segments, found by `raw` and `elf`. Out: a `Source`. Zero pages may follow what a segment has
in the file (ELF: p_memsz > p_filesz); offsets need not be aligned (QEMU starts at 0x498, right after its headers).

    page    first_page ......................... first_page + pages
    file    [ offset: data_pages * 4096 bytes )[ zeros, not in the file )
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

from vmckpt.layout import Layout
from vmckpt.pages import PAGE_BYTES, PageRange, blocks_of
from vmckpt.sources.file import SourceFile

__all__ = ["Segment", "SegmentSource"]


class Segment(NamedTuple):
    """Where one region of the layout lies in the file."""

    data_pages: int
    """How many of the region's pages are in the file; those after them are zero."""
    offset: int
    """File offset of the first page, in bytes."""


class SegmentSource:
    """A source over a file, one segment for each region of its layout.

    After a fork, any number of processes may call `read`; `data_ranges` belongs to one process at a time.
    """

    __slots__ = ("_file", "_first_pages", "_segments", "kind", "layout")

    def __init__(self, file: SourceFile, kind: str, layout: Layout, segments: Sequence[Segment]) -> None:
        """Take over `file`; `segments` stand in the order of `layout.regions`."""
        self.kind = kind
        self.layout = layout
        self._file = file
        self._segments = tuple(segments)
        self._first_pages = [region.first_page for region in layout.regions]

    @property
    def name(self) -> str:
        """The path as given, or `-`."""
        return self._file.name

    @property
    def identity(self) -> bytes:
        """Device, inode, size and modification time; random for a stream."""
        return self._file.identity

    @property
    def modified_ns(self) -> int:
        """The file's modification time, or the end of the stream: nanoseconds since 1970."""
        return self._file.modified_ns

    def read(self, pages: PageRange, into: memoryview) -> None:
        """Fill `into` (bytes, `pages.pages * PAGE_BYTES` of them) with the content of `pages`.

        Raises:
            IoError: the read failed.
            ChangedError: the file was cut short since it was opened.
            ValueError: there are no such pages, or `into` has another size.
        """
        start, end = pages
        if not 0 <= start <= end <= self.layout.page_count or len(into) != (end - start) * PAGE_BYTES:
            raise ValueError(
                f"cannot read pages {start} to {end} of {self.layout.page_count} into {len(into)} bytes"
            )
        while start < end:
            index = bisect_right(self._first_pages, start) - 1
            region = self.layout.regions[index]
            part = min(end, region.first_page + region.pages) - start
            self._read_part(self._segments[index], start - region.first_page, into[: part * PAGE_BYTES])
            start += part
            into = into[part * PAGE_BYTES :]

    def _read_part(self, segment: Segment, first: int, into: memoryview) -> None:
        """Read from page `first` of `segment` on; `into` ends within it."""
        data_bytes = min(max(segment.data_pages - first, 0) * PAGE_BYTES, len(into))
        if data_bytes:
            self._file.read(segment.offset + first * PAGE_BYTES, into[:data_bytes])
        if data_bytes < len(into):
            into[data_bytes:] = bytes(len(into) - data_bytes)

    def data_ranges(self) -> Iterator[PageRange]:
        """Ascending, disjoint ranges outside which every page lies in a hole of the file or not in it at all.

        Raises:
            IoError: the file's extents cannot be told.
            ChangedError: the file was cut short since it was opened.
        """
        # Where an offset is not aligned, a page may straddle two extents; blocks of one page join the two again.
        return blocks_of(self._extent_pages(), 1, self.layout.page_count)

    def _extent_pages(self) -> Iterator[PageRange]:
        for segment, first_page in zip(self._segments, self._first_pages, strict=True):
            offset = segment.offset
            for low, high in self._file.data_extents(offset, offset + segment.data_pages * PAGE_BYTES):
                yield PageRange(
                    first_page + (low - offset) // PAGE_BYTES, first_page - (offset - high) // PAGE_BYTES
                )

    def check_unchanged(self) -> None:
        """Raise if the file was written to since it was opened.

        Raises:
            ChangedError: its size or its modification time is another.
            IoError: its state cannot be told.
        """
        self._file.check_unchanged()

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
