"""Which pages a machine is using, found by scanning: a simplified CLOCK (VEE'11, estimator 1).

                 hand ─▶ at a fixed rate, around and around
    page   [ . . T . . . T T . . . . T . ]      T: touched since the hand came by last (its accessed bit)
             ▲ passed: every T joins the working set, is cleared, and its trace is set again

VEE'11 scans and clears the accessed bits of page tables, at the rate of its background restore: 4,096 pages a second.
Here the bit of a page is its trace: the first touch traps and sets it; where the hand found it set, the page has to
trap once more. Pure: the clock is the caller's, and so is setting traces. Called by the saver.
"""

from array import array

from vmckpt.pages import PageRange

__all__ = ["PAGES_PER_S", "Scan"]

PAGES_PER_S = 4096.0
"""VEE'11's rate."""


class Scan:
    """The hand and the bits. The working set only grows: one scan estimates it over one time."""

    __slots__ = ("_bits", "_order", "_page_count", "_passed", "_rate", "_seen", "_start_s")

    def __init__(self, page_count: int, rate_pages_per_s: float = PAGES_PER_S) -> None:
        """The hand stands at page 0, and starts at the first `advance`.

        Raises:
            ValueError: there are no pages, or the hand would never move.
        """
        if page_count <= 0 or not rate_pages_per_s > 0:
            raise ValueError(f"cannot scan {page_count} pages at {rate_pages_per_s} pages a second")
        self._page_count = page_count
        self._rate = rate_pages_per_s
        self._bits = bytearray(page_count)
        self._seen = bytearray(page_count)
        self._order = array("Q")
        self._passed = 0  # pages, since the start
        self._start_s: float | None = None

    def touch(self, page: int) -> None:
        """A page was touched."""
        self._bits[page] = 1

    def advance(self, now_s: float) -> list[PageRange]:
        """Move the hand to where it is at `now_s`, by a clock that never goes back.

        Returns the touched pages that it passed, joined where adjacent, in the order in which it passed them: they are
        in the working set, and their traces have to be set again.
        """
        if self._start_s is None:
            self._start_s = now_s
        passed = max(int((now_s - self._start_s) * self._rate), self._passed)
        length = min(
            passed - self._passed, self._page_count
        )  # it met all of them, should it have gone around
        start = (passed - length) % self._page_count
        self._passed = passed
        end = min(start + length, self._page_count)
        return [*self._sweep(start, end), *self._sweep(0, length - (end - start))]

    def _sweep(self, start: int, end: int) -> list[PageRange]:
        found = []
        low = self._bits.find(1, start, end)
        while low >= 0:
            high = self._bits.find(0, low, end)
            high = end if high < 0 else high
            found.append(PageRange(low, high))
            for page in range(low, high):
                if not self._seen[page]:
                    self._seen[page] = 1
                    self._order.append(page)
            self._bits[low:high] = bytes(high - low)
            low = self._bits.find(1, high, end)
        return found

    def active(self) -> "array[int]":
        """The working set so far, in the order in which the hand found it, `Q`: a copy."""
        return self._order[:]
