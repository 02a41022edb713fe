"""The large pages of a memory: which pages each of them is made of. Pure.

    large page n     guest-physical addresses n * large_page_bytes ... , as much of them as is memory
    its pages        page numbers side by side, for they run through the guest's holes

One that memory fills in part only counts as one, too.
"""

from bisect import bisect_right

from vmckpt.errors import UsageError
from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.pages import PageRange

__all__ = ["LARGE_PAGE_BYTES", "LargePages"]

LARGE_PAGE_BYTES = 2 << 20
"""What most processors have."""


class LargePages:
    """The large pages of one memory, by number.

    Attributes:
        large_page_bytes: their size.
        numbers: of all of them, ascending.
    """

    def __init__(self, layout: Layout, large_page_bytes: int = LARGE_PAGE_BYTES) -> None:
        """Lay them out.

        Raises:
            UsageError: there is no large page of that size.
        """
        if large_page_bytes <= PAGE_BYTES or large_page_bytes & large_page_bytes - 1:
            raise UsageError(
                f"a large page cannot have {large_page_bytes} bytes: expected a power of two above {PAGE_BYTES}"
            )
        self.large_page_bytes = large_page_bytes
        per = large_page_bytes // PAGE_BYTES
        first_pages: dict[int, int] = {}
        for region in layout.regions:
            start = region.gpa // PAGE_BYTES
            for number in range(start // per, -(-(start + region.pages) // per)):
                first_pages.setdefault(number, max(number * per - start, 0) + region.first_page)
        self.numbers = list(first_pages)
        self._firsts = list(first_pages.values())
        self._ends = [*self._firsts[1:], layout.page_count]

    def __len__(self) -> int:
        return len(self.numbers)

    def pages_of(self, number: int) -> PageRange:
        """The pages of a large page.

        Raises:
            UsageError: there is no such large page.
        """
        at = bisect_right(self.numbers, number) - 1
        if at < 0 or self.numbers[at] != number:
            raise UsageError(
                f"there is no large page {number}: expected one of {len(self)}, the last of which is {self.numbers[-1]} "
                f"(guest-physical address / {self.large_page_bytes})"
            )
        return PageRange(self._firsts[at], self._ends[at])

    def of(self, page: int) -> int:
        """The large page that a page belongs to."""
        return self.numbers[bisect_right(self._firsts, page) - 1]
