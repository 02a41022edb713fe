"""Equal pages of broken large pages, found and made to share: what frees memory.

    pages, some at a time ─▶ hash each ─▶ zero? met before? ─▶ candidates ─▶ busy (nobody writes) ─▶ compare bytes ─▶ share
                                           (`_met`: hash ─▶ a page)                                  └─ different: forget the hint

A hash only nominates: memory changes while it is looked at, and hashes may collide. What was met before is a hint, too:
the page may hold something else by now, or be part of a large page again. Only pages whose large page is broken take part.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from vmckpt.hashing import ZERO_PAGE_HASH, page_hash
from vmckpt.layout import PAGE_BYTES
from vmckpt.machine.mappings import Mappings
from vmckpt.machine.ram import Ram
from vmckpt.pages import ZERO_PAGE, PageRange, PageReader

__all__ = ["Merged", "Merger"]

_NO_PAGE = -1
_STEP_PAGES = 2048  # who writes to one of them waits for some ten milliseconds; more would save few fences


class Merged(NamedTuple):
    """What one go came to."""

    broken_large_pages: int
    """Large pages that were taken apart."""
    freed_pages: int
    """Pages that gave up their own frame."""
    differed_pages: int
    """Pages that had the hash of another one, and not its bytes."""


class Merger:
    """Breaks large pages up. Belongs to the machine's thread.

    Attributes:
        hash_of: of a page; whatever it says, only equal bytes share.
    """

    def __init__(self, ram: Ram, mappings: Mappings) -> None:
        """Nothing is met so far."""
        self.hash_of = page_hash
        self._ram = ram
        self._mappings = mappings
        self._met: dict[int, int] = {}
        self._buffers = (bytearray(PAGE_BYTES), bytearray(PAGE_BYTES))

    def break_up(self, numbers: Sequence[int]) -> Merged:
        """Take large pages apart, those that are not yet, and have their pages share with all others that are.

        Raises:
            UsageError: there is no such large page, or the machine does not run.
            WorkerError: a vCPU has ended.
        """
        mappings = self._mappings
        ranges = [mappings.large.pages_of(number) for number in numbers]
        fresh = set(numbers) - mappings.broken
        if not mappings.broken:
            self._met.clear()
        for number in numbers:
            mappings.demote(number)
            mappings.broken.add(number)
        freed = differed = 0
        with self._ram.reader() as reader:
            for step in _steps(ranges):
                candidates = [each for pages in step for each in self._nominate(pages, reader)]
                more_freed, more_differed = self._decide(candidates, reader)
                freed, differed = freed + more_freed, differed + more_differed
        mappings.settle()
        return Merged(len(fresh), freed, differed)

    def _nominate(self, pages: PageRange, reader: PageReader) -> Iterator[tuple[int, int]]:
        """Pages that seem equal to others, with their hashes; others are met."""
        frames = self._mappings.frames
        assert frames is not None
        content = memoryview(bytearray(pages.pages * PAGE_BYTES))
        reader.read(pages, content)
        for at, page in enumerate(range(*pages)):
            if not frames.is_alone(page):
                continue  # it shares already
            found = self.hash_of(content[at * PAGE_BYTES : (at + 1) * PAGE_BYTES])
            if found == ZERO_PAGE_HASH:
                yield page, found
                continue
            other = self._met.get(found, _NO_PAGE)
            if other == _NO_PAGE or not self._takes_part(other):
                self._met[found] = page
            elif other != page:
                yield page, found

    def _takes_part(self, page: int) -> bool:
        return self._mappings.large.of(page) in self._mappings.broken

    def _decide(self, candidates: Sequence[tuple[int, int]], reader: PageReader) -> tuple[int, int]:
        """Have candidates share that are equal; how many did, and how many were not equal after all."""
        if not candidates:
            return 0, 0
        mappings, met = self._mappings, self._met
        frames = mappings.frames
        assert frames is not None
        busy = {page for page, _ in candidates}
        busy.update(met[found] for _, found in candidates if found != ZERO_PAGE_HASH)
        freed = differed = 0
        with mappings.busy(busy):
            for page, found in candidates:
                if not frames.is_alone(page):
                    continue  # another one has come to share with it
                if found == ZERO_PAGE_HASH:
                    target = frames.zero_frame if self._is_zero(page, reader) else _NO_PAGE
                else:
                    target = (
                        frames.frame_of(met[found]) if self._are_equal(page, met[found], reader) else _NO_PAGE
                    )
                if target != _NO_PAGE:
                    mappings.share(page, target)
                    freed += 1
                else:
                    differed += 1
                    if found != ZERO_PAGE_HASH:
                        met[found] = page  # the fresher of the two
        return freed, differed

    def _is_zero(self, page: int, reader: PageReader) -> bool:
        own, _ = self._buffers
        reader.read(PageRange(page, page + 1), memoryview(own))
        return own == ZERO_PAGE

    def _are_equal(self, page: int, other: int, reader: PageReader) -> bool:
        # Two bytearrays are compared by memcmp; memoryviews would be item by item.
        own, others = self._buffers
        reader.read(PageRange(page, page + 1), memoryview(own))
        reader.read(PageRange(other, other + 1), memoryview(others))
        return own == others


def _steps(ranges: Sequence[PageRange]) -> Iterator[list[PageRange]]:
    """The same pages, so many at a time as are decided after one fence."""
    step: list[PageRange] = []
    count = 0
    for start, end in ranges:
        for first in range(start, end, _STEP_PAGES):
            step.append(PageRange(first, min(first + _STEP_PAGES, end)))
            count += step[-1].pages
            if count >= _STEP_PAGES:
                yield step
                step, count = [], 0
    if step:
        yield step
