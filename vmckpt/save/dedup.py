"""Which page content was met before, in bounded memory.

A table of hash -> the first page with it, open addressing with at most eight probes. It grows with the memory to be
saved up to 64 MiB, which is room for four million distinct pages (16 GiB of distinct content); past that, entries are
replaced, so that a duplicate may be missed and stored again, never mistaken. What it answers depends on the order of
the questions alone. Equal hashes make a candidate only; the worker compares bytes.
"""

import mmap

from vmckpt.checkpoint.format import STORED

__all__ = ["DedupTable"]

_LEAST_ENTRIES = 1 << 10
_MOST_ENTRIES = 1 << 22
_PROBES = 8


class DedupTable:
    """First pages by hash. For one process."""

    def __init__(self, pages: int) -> None:
        """Make room for `pages` distinct pages, or as many as the bound allows."""
        entries = min(max(1 << (2 * pages - 1).bit_length(), _LEAST_ENTRIES), _MOST_ENTRIES)
        # Anonymous memory: zero, and taken only where an entry is written.
        self._hashes = memoryview(mmap.mmap(-1, entries * 8)).cast("Q")
        self._pages = memoryview(mmap.mmap(-1, entries * 8)).cast("Q")
        self._mask = entries - 1

    def resolve(self, pages: range, kinds: bytes, hashes: memoryview) -> list[tuple[int, int]]:
        """Look up the pages of kind STORED, in order, and enter those not met before.

        Args:
            pages: their page numbers.
            kinds: one for each page.
            hashes: uint64, one for each page.

        Returns:
            Index and first page of each that was met before.
        """
        known_hashes, known_pages, mask = self._hashes, self._pages, self._mask
        found: list[tuple[int, int]] = []
        index = kinds.find(STORED)
        while index >= 0:
            value = hashes[index]
            home = at = value & mask
            for probe in range(_PROBES):
                at = (home + probe) & mask
                page = known_pages[at]  # one more than the page number; 0 is an empty entry
                if not page:
                    break
                if known_hashes[at] == value:
                    found.append((index, page - 1))
                    break
            else:
                at, page = home, 0  # crowded: the newcomer replaces
            if not page:
                known_hashes[at] = value
                known_pages[at] = pages[index] + 1
            index = kinds.find(STORED, index + 1)
        return found
