"""Hashes of pages, checksums of bytes on disk, and the digest of a whole memory: the one user of xxhash.

The digest is the XXH3-128 of the little-endian XXH3-64 (seed 0) of every page in guest-physical order, zero pages
included. It follows from page hashes alone, so an image, its checkpoint and its restored copy share one, and a
checkpoint's can be told from the page hashes that it keeps.

XXH3 is fast, not cryptographic: equal hashes make two pages *candidates* for being equal, and only a comparison of
their bytes decides.
"""

import sys
from array import array
from collections.abc import Callable, Iterable, Iterator

import xxhash

from vmckpt.pages import PAGE_BYTES, ZERO_PAGE, Buffer

__all__ = [
    "PATTERN_HASHES",
    "ZERO_PAGE_HASH",
    "Digest",
    "checksum",
    "checksum_of",
    "fingerprint",
    "pack_hashes",
    "page_hash",
    "page_hashes",
]

page_hash: Callable[[Buffer], int] = xxhash.xxh3_64_intdigest
"""XXH3-64 of one page (any buffer)."""

checksum: Callable[[Buffer], int] = xxhash.xxh3_64_intdigest
"""XXH3-64 of bytes on disk."""

ZERO_PAGE_HASH = page_hash(ZERO_PAGE)

PATTERN_HASHES: dict[int, int] = {page_hash(bytes([byte]) * PAGE_BYTES): byte for byte in range(256)}
"""Page hash -> the byte which that page repeats throughout."""

_ZERO_RUN_PAGES = 1 << 16
_ZERO_RUN = ZERO_PAGE_HASH.to_bytes(8, "little") * 512


def checksum_of(*parts: Buffer) -> int:
    """XXH3-64 of several buffers as if they stood side by side."""
    state = xxhash.xxh3_64()
    for part in parts:
        state.update(part)
    return state.intdigest()


def fingerprint(data: bytes) -> bytes:
    """XXH3-128: 16 bytes that stand for `data` where a name of fixed length is wanted."""
    return xxhash.xxh3_128_digest(data)


def pack_hashes(hashes: Iterable[int]) -> bytes:
    """Hashes as they stand on disk: 8 bytes each, little-endian."""
    packed = array("Q", hashes)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def page_hashes(buffer: memoryview) -> Iterator[int]:
    """The hash of each page of a buffer of whole pages."""
    return map(page_hash, [buffer[start : start + PAGE_BYTES] for start in range(0, len(buffer), PAGE_BYTES)])


class Digest:
    """The digest of a memory, fed with page hashes in page order."""

    __slots__ = ("_state", "pages")

    def __init__(self) -> None:
        self._state = xxhash.xxh3_128()
        self.pages = 0

    def add(self, hashes: Buffer) -> None:
        """Feed the little-endian 64-bit hashes of the next pages."""
        self._state.update(hashes)
        self.pages += len(hashes) // 8

    def add_zeros(self, pages: int) -> None:
        """Feed the hashes of `pages` zero pages."""
        self.pages += pages
        run = _ZERO_RUN
        if pages > _ZERO_RUN_PAGES:
            run = _ZERO_RUN * (_ZERO_RUN_PAGES // 512)
        whole, rest = divmod(pages, len(run) // 8)
        for _ in range(whole):
            self._state.update(run)
        self._state.update(run[: rest * 8])

    def bytes(self) -> bytes:
        """The digest so far: 16 bytes, most significant first."""
        return self._state.digest()
