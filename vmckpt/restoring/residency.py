"""What is known of each page of a guest that is being restored: one byte for each, which only ever moves up.

    MISSING ──claim──▶ CLAIMED ──settle──▶ PRESENT | ZERO            REMOVED: given up by the guest, whatever it was
                          │                      │                             (top: nothing brings it back)
                          └────────remove────────┴──────────────▶ REMOVED

Claim before copy: fault, prefetch and background may all want a page, and whoever turns it from missing to claimed is
the one who copies. A claim is never given back: should its owner die, the page stays claimed, and whoever follows
finishes what is `claimed`. So a page that is neither missing nor claimed is in place, whatever died when. The bytes may lie
in memory shared between processes: then a process that is started again goes on from them, and a vCPU without the kernel's
help looks at them before it touches a page.

Between processes a claim saves work and proves nothing: two may claim at one moment, and a vCPU that waits is not made to
wait for another's claim (`take`). That no page is filled twice is then the kernel's doing (`engine`).

    bits 0-2   state              bits 4-6   origin: why it was brought

Pure: bytes in, bytes out. Called by `engine`, `background` and `software`.
"""

from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple

from vmckpt.pages import PageRange

__all__ = ["ORIGIN_SHIFT", "Census", "Origin", "Residency", "State"]


class State(IntEnum):
    """How far a page has come."""

    MISSING = 0
    """The guest's memory does not have it; whoever touches it waits."""
    CLAIMED = 1
    """Somebody is copying it."""
    PRESENT = 2
    """Its content is in place; it is the guest's now, and never written again by the restore."""
    ZERO = 3
    """The same, and what was put in place are zeros."""
    REMOVED = 4
    """The guest gave it up: who touches it gets zeros, and its old content never comes back."""


class Origin(IntEnum):
    """Why a page was brought."""

    NONE = 0
    PREFETCH = 1
    """It, or a page next to it, was active at the save."""
    DEMAND = 2
    """A vCPU waited for it."""
    NEIGHBOUR = 3
    """It lies in a storage block that was read for another page."""
    BACKGROUND = 4
    """Its turn had come."""


_STATE = 7
ORIGIN_SHIFT = 4
"""Where a cell keeps its origin."""
_HERE = State.PRESENT
_VALUES = 1 << 8
_CHUNK = 1 << 20
_CLAIMED = bytes([State.CLAIMED])


class Census(NamedTuple):
    """How many pages there are of each kind."""

    missing: int
    prefetched: int
    on_demand: int
    """Stored pages that a vCPU waited for."""
    neighbours: int
    background: int
    zero: int
    """Zero pages that were put in place, but for prefetched ones."""
    removed: int


class Residency:
    """The states of all pages.

    Attributes:
        cells: one byte for each page; read only, from outside.
    """

    def __init__(self, cells: memoryview) -> None:
        """Go on from `cells`, writable; a new one is all zero bytes."""
        self.cells = cells

    def state(self, page: int) -> int:
        """The `State` of a page, as a plain number."""
        return self.cells[page] & _STATE

    def origin(self, page: int) -> int:
        """The `Origin` of a page, as a plain number."""
        return self.cells[page] >> ORIGIN_SHIFT

    def is_here(self, page: int) -> bool:
        """Whether the guest may touch the page without waiting for its content."""
        return _HERE <= self.cells[page] & _STATE <= State.ZERO

    def claim(self, pages: PageRange) -> list[PageRange]:
        """Claim what is missing of a range, and return it; nothing else of it may be copied."""
        start, end = pages
        found = bytes(self.cells[start:end])
        if not any(found):  # as a rule
            self.cells[start:end] = _CLAIMED * (end - start)
            return [pages]
        runs = list(_runs_of(State.MISSING, found, start))
        for low, high in runs:
            self.cells[low:high] = bytes([State.CLAIMED]) * (high - low)
        return runs

    def settle(self, pages: PageRange, state: State, origin: Origin) -> None:
        """Claimed pages are in place. One that is not claimed any more keeps the state that another gave it.

        Raises:
            ValueError: they are said to be in another state than PRESENT or ZERO.
        """
        if state is not State.PRESENT and state is not State.ZERO:
            raise ValueError(f"a page cannot settle as {state!r}")
        start, end = pages
        length = end - start
        found, settled = bytes(self.cells[start:end]), bytes([state | origin << ORIGIN_SHIFT])
        if found == _CLAIMED * length:  # as a rule
            self.cells[start:end] = settled * length
            return
        for page, cell in enumerate(found, start):
            if cell == State.CLAIMED:
                self.cells[page] = settled[0]

    def take(self, page: int) -> bool:
        """Claim a page that a vCPU waits for, even from whoever else has claimed it; False where it is in place."""
        if self.cells[page] & _STATE >= State.PRESENT:
            return False
        self.cells[page] = State.CLAIMED
        return True

    def attribute(self, page: int, origin: Origin) -> None:
        """Note another reason for a page that is in place."""
        self.cells[page] = self.cells[page] & _STATE | origin << ORIGIN_SHIFT

    def remove(self, pages: PageRange) -> None:
        """The guest gave the pages up."""
        start, end = pages
        self.cells[start:end] = bytes([State.REMOVED]) * (end - start)

    def claimed(self) -> list[PageRange]:
        """What is claimed. Whoever claimed it may have died, with its work done, half done, or not begun."""
        runs: list[PageRange] = []
        for start in range(0, len(self.cells), _CHUNK):
            part = bytes(self.cells[start : start + _CHUNK])
            if any(part):
                runs += _runs_of(State.CLAIMED, part, start)
        return runs

    def has_missing(self, pages: PageRange) -> bool:
        """Whether a page of the range is missing."""
        return 0 in bytes(self.cells[pages.start : pages.end])

    def missing_of(self, pages: Iterable[int]) -> list[int]:
        """Those of these pages that are missing, in their order."""
        cells = self.cells
        return [page for page in pages if not cells[page]]

    def census(self) -> Census:
        """Count all pages."""
        counts = [0] * _VALUES
        for start in range(0, len(self.cells), _CHUNK):
            part = bytes(self.cells[start : start + _CHUNK])
            zeros = part.count(0)
            counts[0] += zeros
            if zeros < len(part):
                for value in set(part) - {0}:
                    counts[value] += part.count(value)

        def brought(state: State, origin: Origin) -> int:
            return counts[state | origin << ORIGIN_SHIFT]

        zero = sum(brought(State.ZERO, origin) for origin in Origin if origin != Origin.PREFETCH)
        return Census(
            missing=counts[State.MISSING] + counts[State.CLAIMED],
            prefetched=brought(State.PRESENT, Origin.PREFETCH) + brought(State.ZERO, Origin.PREFETCH),
            on_demand=brought(State.PRESENT, Origin.DEMAND),
            neighbours=brought(State.PRESENT, Origin.NEIGHBOUR),
            background=brought(State.PRESENT, Origin.BACKGROUND) + brought(State.PRESENT, Origin.NONE),
            zero=zero,
            removed=counts[State.REMOVED],
        )


def _runs_of(cell: int, found: bytes, first: int) -> Iterator[PageRange]:
    """Runs of pages whose cell is exactly this, in the cells `found`, which are those from page `first` on."""
    start = found.find(cell)
    while start >= 0:
        end = start + 1
        while end < len(found) and found[end] == cell:
            end += 1
        yield PageRange(first + start, first + end)
        start = found.find(cell, end)
