"""Which pages count as active: two estimators of the working set over what the tracer has trapped.

    tracing    every page (or block) that trapped, in the order of the traps (VEE'11, estimator 2)
    scanning   a hand goes through memory with the background saver, as CLOCK through accessed bits (estimator 1): what
               was touched since it came by last is active, and its traces are set again

Called by `live`, which hands on what the journal says and how far the background has come.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from vmckpt.pages import PageRange
from vmckpt.trace.active import Active
from vmckpt.trace.journal import Entry
from vmckpt.trace.scan import Scan

__all__ = ["ESTIMATORS", "ByScanning", "ByTracing", "Estimator"]

ESTIMATORS = ("tracing", "scanning")


class Estimator(Protocol):
    """Told what happens during a save; says in the end which pages are active."""

    def hear(self, entries: Iterable[Entry]) -> None:
        """What trapped, in order."""

    def pass_page(self, page: int) -> None:
        """The background has saved memory up to this page."""

    def __len__(self) -> int:
        """How many pages are active so far."""

    def active(self) -> "array[int]":
        """The active pages in order, `Q`."""


class ByTracing:
    """All that trapped."""

    def __init__(self, page_count: int, block_pages: int, *, whole_block: bool) -> None:
        """With `whole_block`, a trap stands for its block: its traces are gone, so its other pages cannot tell."""
        self._active = Active(page_count, block_pages)
        self._whole_block = whole_block

    def hear(self, entries: Iterable[Entry]) -> None:
        """See `Estimator`."""
        for entry in entries:
            self._active.mark(entry.page, whole_block=self._whole_block)

    def pass_page(self, page: int) -> None:
        """See `Estimator`."""

    def __len__(self) -> int:
        return len(self._active)

    def active(self) -> "array[int]":
        """See `Estimator`."""
        return self._active.pages()


class ByScanning:
    """What the hand found touched. The rate is that of the background saver, as VEE'11's is that of the restore."""

    def __init__(
        self,
        page_count: int,
        block_pages: int,
        *,
        whole_block: bool,
        trace_again: Callable[[Sequence[PageRange]], None],
    ) -> None:
        """As `ByTracing`; `trace_again` sets the traces of pages that the hand has passed."""
        self._scan = Scan(page_count, 1.0)  # by a clock that counts the pages that the background has passed
        self._page_count = page_count
        self._block_pages = block_pages
        self._whole_block = whole_block
        self._trace_again = trace_again
        self._scan.advance(0)

    def hear(self, entries: Iterable[Entry]) -> None:
        """See `Estimator`."""
        for entry in entries:
            for page in self._pages_of(entry.page):
                self._scan.touch(page)

    def _pages_of(self, page: int) -> Iterable[int]:
        if not self._whole_block:
            return (page,)
        start = page // self._block_pages * self._block_pages
        return range(start, min(start + self._block_pages, self._page_count))

    def pass_page(self, page: int) -> None:
        """See `Estimator`."""
        passed = self._scan.advance(page)
        if passed:
            self._trace_again(passed)

    def __len__(self) -> int:
        return len(self.active())

    def active(self) -> "array[int]":
        """See `Estimator`."""
        return self._scan.active()
