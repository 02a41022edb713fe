"""What a checkpoint holds whose memory blocks come in any order, and some of them again: the last version counts.

Keeps nine bytes for each page that is not zero, which a save at rest, where blocks come in page order, need not.
"""

from vmckpt.checkpoint.format import DUPLICATE, PATTERN, STORED, ZERO
from vmckpt.hashing import Digest
from vmckpt.reports import PageCounts

__all__ = ["LatestTally"]


class LatestTally:
    """Kinds and hashes of each block's last version.

    Attributes:
        resaved_pages: pages, zero ones left out, of blocks that came again.
    """

    def __init__(self, page_count: int, block_pages: int) -> None:
        self._page_count = page_count
        self._block_pages = block_pages
        self._blocks: dict[int, tuple[bytes, bytes]] = {}
        self.resaved_pages = 0

    def add(self, number: int, kinds: bytes, hashes: memoryview) -> None:
        """A block as it was just appended; one without hashes is zero throughout."""
        if number in self._blocks:
            self.resaved_pages += len(kinds) - kinds.count(ZERO)
        self._blocks[number] = kinds, hashes.tobytes()

    def pages_of(self, block: int) -> int:
        """How many of a block's pages its last version has that are not zero; all of them where there is none yet."""
        found = self._blocks.get(block)
        if found is not None:
            return len(found[0]) - found[0].count(ZERO)
        start = block * self._block_pages
        return min(self._block_pages, self._page_count - start)

    def counts(self) -> PageCounts:
        """The pages of memory by kind."""
        found = [0, 0, 0]
        for kinds, _ in self._blocks.values():
            for index, kind in enumerate((STORED, PATTERN, DUPLICATE)):
                found[index] += kinds.count(kind)
        stored, pattern, duplicate = found
        zero = self._page_count - stored - pattern - duplicate
        return PageCounts(self._page_count, zero, pattern, duplicate, stored)

    def digest(self) -> bytes:
        """The digest of memory, 16 bytes."""
        digest = Digest()
        for number in sorted(self._blocks):
            hashes = self._blocks[number][1]
            if hashes:
                digest.add_zeros(number * self._block_pages - digest.pages)
                digest.add(hashes)
        digest.add_zeros(self._page_count - digest.pages)
        return digest.bytes()
