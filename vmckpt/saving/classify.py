"""What a page is: zero, a repeated byte, or content to store. Pure: buffers in, kinds and hashes out.

One hash decides the candidates and one comparison of bytes confirms each, so no page is ever taken for another on the
strength of a hash. `bytearray == memoryview` compares like memcmp (50 GB/s); two memoryviews would be compared item by
item.
"""

from collections.abc import Sequence

from vmckpt.checkpoint.format import PATTERN, STORED, ZERO
from vmckpt.hashing import PATTERN_HASHES, page_hash
from vmckpt.pages import PAGE_BYTES

__all__ = ["classify"]

_PATTERN_PAGES: dict[int, bytearray] = {}


def _repeats(page: memoryview, byte: int) -> bool:
    pattern = _PATTERN_PAGES.get(byte)
    if pattern is None:
        pattern = _PATTERN_PAGES[byte] = bytearray([byte]) * PAGE_BYTES
    return pattern == page


def classify(pages: Sequence[memoryview]) -> tuple[bytes, list[int]]:
    """Kind and hash of each page; a page that is neither zero nor a pattern has kind STORED.

    Args:
        pages: views of one page each.
    """
    hashes = list(map(page_hash, pages))
    kinds = bytearray([STORED]) * len(pages)
    for index, value in enumerate(hashes):
        byte = PATTERN_HASHES.get(value)
        if byte is not None and _repeats(pages[index], byte):
            kinds[index] = PATTERN if byte else ZERO
    return bytes(kinds), hashes
