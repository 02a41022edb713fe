"""Contents with many copies, found in one pass and in bounded memory.

    hashes ─▶ buffer ─ full ─▶ sorted and counted ─▶ merged into the table ─▶ the table cut back to its size

A table of the kind of SpaceSaving (Metwally, Agrawal, El Abbadi, 2005), filled a buffer at a time. It says of each
content that it holds between which bounds its copies lie, and of all others how many copies they have at most. A content
that was in the table from its first copy on is counted exactly.
"""

import numpy as np
import numpy.typing as npt

from vmckpt.sharing.hashes import Hashes

__all__ = ["Heavy"]

Counts = npt.NDArray[np.int64]


class Heavy:
    """The contents with most copies of a stream; `fold` before reading the attributes.

    Attributes:
        hashes: contents in the table, ascending, [n].
        counted: copies that were counted of each, [n]: it has at least so many.
        missed: copies of each that may have come before it entered the table, [n]: 0, the count is exact.
        dropped: what is not in the table has at most so many copies.
        pages: pages seen.
    """

    __slots__ = ("_buffer", "_filled", "_size", "counted", "dropped", "hashes", "missed", "pages")

    def __init__(self, size: int = 1 << 16, buffer_pages: int = 1 << 20) -> None:
        """Hold at most `size` contents (24 bytes each), and sort `buffer_pages` at a time (some 40 bytes each)."""
        self.hashes: Hashes = np.empty(0, np.uint64)
        self.counted: Counts = np.empty(0, np.int64)
        self.missed: Counts = np.empty(0, np.int64)
        self.dropped = 0
        self.pages = 0
        self._size = size
        self._buffer: Hashes = np.empty(buffer_pages, np.uint64)
        self._filled = 0

    def add(self, hashes: Hashes) -> None:
        """Count more pages."""
        self.pages += len(hashes)
        while len(hashes):
            part = hashes[: len(self._buffer) - self._filled]
            self._buffer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            hashes = hashes[len(part) :]
            if self._filled == len(self._buffer):
                self.fold()

    def fold(self) -> None:
        """Take the buffer into the table."""
        found, counts = np.unique(self._buffer[: self._filled], return_counts=True)
        self._filled = 0
        self._join(found, counts, np.zeros(len(found), np.int64), 0)

    def merge(self, other: "Heavy") -> None:
        """Take in the table of another stream, as if the streams were one."""
        self.fold()
        other.fold()
        self.pages += other.pages
        self._join(other.hashes, other.counted, other.missed, other.dropped)

    def _join(self, hashes: Hashes, counted: Counts, missed: Counts, dropped: int) -> None:
        # What only one of the two holds may have up to the other's `dropped` copies there.
        both = np.concatenate([self.hashes, hashes])
        joined, at = np.unique(both, return_inverse=True)
        mine, theirs = at[: len(self.hashes)], at[len(self.hashes) :]
        new_counted = np.zeros(len(joined), np.int64)
        new_missed = np.full(len(joined), self.dropped + dropped, np.int64)
        new_counted[mine] += self.counted
        new_missed[mine] += self.missed - self.dropped
        new_counted[theirs] += counted
        new_missed[theirs] += missed - dropped
        self.dropped += dropped
        self.hashes, self.counted, self.missed = joined, new_counted, new_missed
        if len(joined) > self._size:
            self._cut()

    def _cut(self) -> None:
        # Of those with as many copies at most, what was counted is worth more than what may have been missed.
        most = self.counted + self.missed
        order = np.lexsort((self.counted, most))
        gone, kept = order[: -self._size], np.sort(order[-self._size :])
        self.dropped = max(self.dropped, int(most[gone].max()))
        self.hashes, self.counted, self.missed = self.hashes[kept], self.counted[kept], self.missed[kept]
