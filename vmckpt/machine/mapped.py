"""Memory read through a page table: what any other source is, whichever frames the pages are in by now.

    page ─▶ entry ─▶ frame: at frame * 4096 of the memfd          frames side by side are read at once

The supervisor's own `Ram.reader`, and `saving.guest` for a machine that is digested, saved or estimated while its pages
share.
"""

from collections.abc import Iterator
from typing import Self

from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.machine.pagetable import FRAME_SHIFT, PageTable
from vmckpt.pages import PageRange, blocks_of
from vmckpt.sources.memory import MemoryFile
from vmckpt.sources.segments import Segment, SegmentSource

__all__ = ["LentMemory", "MappedMemory"]


class MappedMemory(SegmentSource):
    """Memory as it is at the moment of reading; a page that moves meanwhile is read again."""

    __slots__ = ("_table",)

    def __init__(
        self, fd: int, layout: Layout, table: PageTable, name: str = "memory of the machine"
    ) -> None:
        """Take over `fd`, the memfd of all frames; `table` stays the caller's, and open for as long."""
        segments = [Segment(region.pages, region.first_page * PAGE_BYTES) for region in layout.regions]
        super().__init__(MemoryFile(fd, name), "machine", layout, segments)
        self._table = table

    def read(self, pages: PageRange, into: memoryview) -> None:
        """See `SegmentSource.read`."""
        start, end = pages
        if not 0 <= start <= end <= self.layout.page_count or len(into) != (end - start) * PAGE_BYTES:
            raise ValueError(
                f"cannot read pages {start} to {end} of {self.layout.page_count} into {len(into)} bytes"
            )
        frames = self._frames_of(start, end)
        while True:
            for first, count in _runs(frames):
                part = into[first * PAGE_BYTES : (first + count) * PAGE_BYTES]
                self._file.read(frames[first] * PAGE_BYTES, part)
            before, frames = frames, self._frames_of(start, end)
            if before == frames:
                return

    def data_ranges(self) -> Iterator[PageRange]:
        """See `SegmentSource.data_ranges`: pages whose frames are no holes."""
        file = self._file
        is_data = bytearray(file.size_bytes // PAGE_BYTES)
        for low, high in file.data_extents(0, file.size_bytes):
            first, end = low // PAGE_BYTES, -(-high // PAGE_BYTES)
            is_data[first:end] = b"\1" * (end - first)
        held = bytes(is_data[frame] for frame in self._frames_of(0, self.layout.page_count))
        ranges = []
        start = held.find(1)
        while start >= 0:
            end = held.find(0, start)
            end = len(held) if end < 0 else end
            ranges.append(PageRange(start, end))
            start = held.find(1, end)
        return blocks_of(ranges, 1, self.layout.page_count)

    def _frames_of(self, start: int, end: int) -> list[int]:
        return [entry >> FRAME_SHIFT for entry in self._table.entries[start:end].tolist()]


class LentMemory(MappedMemory):
    """The same where the table was lent along with the memory: closing it closes the table as well."""

    __slots__ = ()

    @classmethod
    def over(cls, fd: int, layout: Layout, table_fd: int, vcpus: int, name: str) -> Self:
        """Take over `fd`; map the table at `table_fd`, which stays the caller's.

        Raises:
            IoError: a descriptor is none of such a length.
        """
        return cls(fd, layout, PageTable(table_fd, layout.page_count, vcpus), name)

    def close(self) -> None:
        """Close both. Closing twice is fine."""
        super().close()
        self._table.close()


def _runs(frames: list[int]) -> Iterator[tuple[int, int]]:
    """First page and number of pages of each stretch whose frames lie side by side."""
    first = 0
    for at in range(1, len(frames) + 1):
        if at == len(frames) or frames[at] != frames[at - 1] + 1:
            yield first, at - first
            first = at
