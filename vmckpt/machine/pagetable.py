"""The page table of a machine whose pages share: memory common to its supervisor and its vCPUs.

    entries     one word for each page      frame << 9 | WRITABLE | SMALL       read by vCPUs, written by the supervisor
    small_ops   one word for each vCPU      operations that met a small mapping             written by the vCPU
    touched     one byte for each vCPU and page, 1: touched through a small mapping     set by the vCPU, cleared by the supervisor

A large page that is mapped as one has the entries of its small pages in place, without SMALL; so one look tells a vCPU
where a page is, whether it may write there, and through which kind of mapping it goes. An entry is one aligned word:
who reads it while it is changed gets the old one or the new one. A frame holds 512 words, so its number and a word's
number within the page make the word's place in the vCPU's mapping of all frames.
"""

# array[int] cannot be evaluated before Python 3.12.
from __future__ import annotations

from array import array
from typing import NamedTuple

from vmckpt.kernel.memory import Mapping, create_memfd
from vmckpt.pages import PageRange

__all__ = ["FRAME_SHIFT", "SMALL", "WORD_MASK", "WRITABLE", "PageTable"]

FRAME_SHIFT = 9
"""An entry shifted by so much is its frame; a word's number in memory shifted by so much is its page."""
WORD_MASK = (1 << FRAME_SHIFT) - 1
"""The bits of a word's number that count within a page, and of an entry that are flags."""
SMALL = 1
"""Flag: the page is mapped by itself, not with its large page."""
WRITABLE = 2
"""Flag: vCPUs may write to the page."""

_LINE_WORDS = 8  # a cache line for each vCPU's counter


class _Sizes(NamedTuple):
    entries: int
    counters: int
    touched: int

    @classmethod
    def of(cls, page_count: int, vcpus: int) -> _Sizes:
        return cls(page_count * 8, vcpus * _LINE_WORDS * 8, vcpus * page_count)


class PageTable:
    """One process's mapping of the table.

    Attributes:
        page_count: pages of memory.
        entries: one 64-bit word for each page.
        touched: for each vCPU one byte for each page.
    """

    def __init__(self, fd: int, page_count: int, vcpus: int) -> None:
        """Map the table at `fd`, which stays the caller's.

        Raises:
            IoError: it cannot be mapped, or is shorter than that.
        """
        sizes = _Sizes.of(page_count, vcpus)
        self.page_count = page_count
        self._vcpus = vcpus
        self._mapping = Mapping.of_file(fd, sum(sizes))
        start = sizes.entries + sizes.counters
        with self._mapping.view as view:
            self.entries = view[: sizes.entries].cast("Q")
            self._counters = view[sizes.entries : start].cast("Q")
            self.touched = [view[start + n * page_count : start + (n + 1) * page_count] for n in range(vcpus)]

    @staticmethod
    def create(page_count: int, vcpus: int) -> int:
        """A memfd for a table; the caller owns the descriptor.

        Raises:
            FeatureError: this system has no memfd.
            IoError: there is no memory for it.
        """
        return create_memfd("vmckpt-pagetable", sum(_Sizes.of(page_count, vcpus)), sealed=True)

    def fill(self) -> None:
        """Map all pages large, each at home."""
        end = WRITABLE + (self.page_count << FRAME_SHIFT)
        self.entries[:] = memoryview(array("Q", range(WRITABLE, end, 1 << FRAME_SHIFT)))

    def counter(self, vcpu: int) -> memoryview:
        """The word that a vCPU counts its `small_ops` in."""
        return self._counters[vcpu * _LINE_WORDS : vcpu * _LINE_WORDS + 1]

    @property
    def small_ops(self) -> int:
        """Operations of all vCPUs that met a small mapping, since the table was made; a moment old while they run."""
        return sum(self._counters)

    def touched_pages(self, pages: PageRange) -> int:
        """How many of these pages any vCPU has touched through small mappings since they were cleared."""
        by_any = 0
        for row in self.touched:
            by_any |= int.from_bytes(row[pages.start : pages.end], "little")
        return by_any.bit_count()

    def clear_touched(self, pages: PageRange) -> None:
        """Have none of them touched, so far."""
        for row in self.touched:
            row[pages.start : pages.end] = bytes(pages.pages)

    def close(self) -> None:
        """Unmap it. Closing twice is fine."""
        for view in (self.entries, self._counters, *self.touched):
            view.release()
        self._mapping.close()
