"""Which page content was met before, in bounded memory.

A table of hash -> the first page with it, open addressing with at most eight probes. It grows with the memory to be
saved up to 64 MiB, which is room for four million distinct pages (16 GiB of distinct content); past that, entries are
replaced, so that a duplicate may be missed and stored again, never mistaken. What it answers depends on the order of
the questions alone. Equal hashes make a candidate only; the worker compares bytes.
"""

from array import array

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
        self._hashes = array("Q", bytes(entries * 8))
        self._pages = array("Q", bytes(entries * 8))  # one more than the page number; 0 is an empty entry
        self._mask = entries - 1

    def resolve(self, first_page: int, kinds: bytes, hashes: memoryview) -> list[tuple[int, int]]:
        """Look up the pages of kind STORED, in order, and enter those not met before.

        Args:
            first_page: the page number of the first.
            kinds: one for each page.
            hashes: uint64, one for each page.

        Returns:
            Index and first page of each that was met before.
        """
        # One of the two loops of a save that run for every page in the one coordinator: hence the local names.
        known_hashes, known_pages, mask = self._hashes, self._pages, self._mask
        found: list[tuple[int, int]] = []
        page = first_page
        for kind, value in zip(kinds, hashes.tolist(), strict=True):
            page += 1
            if kind != STORED:
                continue
            at = value & mask
            known = known_pages[at]
            if known and known_hashes[at] != value:
                at = self._probe(at, value)
                known = known_pages[at] if known_hashes[at] == value else 0
            if known:
                found.append((page - first_page - 1, known - 1))
            else:
                known_hashes[at] = value
                known_pages[at] = page
        return found

    def _probe(self, home: int, value: int) -> int:
        """Where `value` is, or may go: an empty entry, or else its home, whose entry it will replace."""
        for probe in range(1, _PROBES):
            at = (home + probe) & self._mask
            if not self._pages[at] or self._hashes[at] == value:
                return at
        return home
