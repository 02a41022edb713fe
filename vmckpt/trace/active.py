"""The pages that a machine was using, in the order in which they were first seen (US 2010/0070678: active pages).

    Entry ─▶ mark ─┬─ the page alone
                   └─ its memory block: the page that trapped first, then the block's others, ascending
    Scan.active ─▶ extend

A lazy restore loads them first, in this order, and layout `access` stores their blocks first. Pure; kept by the saver.
"""

from array import array
from collections.abc import Iterable

__all__ = ["Active"]


class Active:
    """A set of pages that keeps their order."""

    __slots__ = ("_block_pages", "_order", "_page_count", "_seen")

    def __init__(self, page_count: int, block_pages: int) -> None:
        """Empty; takes a byte for each page of memory, and eight for each active one."""
        self._page_count = page_count
        self._block_pages = block_pages
        self._seen = bytearray(page_count)
        self._order = array("Q")

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, page: object) -> bool:
        return isinstance(page, int) and 0 <= page < self._page_count and self._seen[page] == 1

    def mark(self, page: int, *, whole_block: bool = False) -> None:
        """Add a page, or its block; what is in already keeps its place."""
        if not whole_block:
            self._add(page)
            return
        start = page // self._block_pages * self._block_pages
        end = min(start + self._block_pages, self._page_count)
        if self._seen.find(0, start, end) < 0:
            return  # most traps of a second vCPU end here
        self._add(page)
        for other in range(start, end):
            self._add(other)

    def extend(self, pages: Iterable[int]) -> None:
        """Add pages, in their order."""
        for page in pages:
            self._add(page)

    def _add(self, page: int) -> None:
        if not self._seen[page]:
            self._seen[page] = 1
            self._order.append(page)

    def pages(self) -> "array[int]":
        """The pages in order, `Q`: a copy."""
        return self._order[:]
