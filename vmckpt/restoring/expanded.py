"""A memory block's pages, told apart: runs of pages with their content, zeros, and duplicates of pages elsewhere.

    directory entry, stored pages side by side ─▶ Expanded: pieces (pages, content or zeros), duplicates (page, index)

Pure. Nothing is copied where every page is stored, or stored pages stand alone; pieces are then views of the memory that
they were handed over in. Called by `store`, for `engine` and `background`.
"""

from typing import NamedTuple

from vmckpt.checkpoint.block import MemoryBlock
from vmckpt.checkpoint.format import DUPLICATE, PATTERN, STORED
from vmckpt.pages import PAGE_BYTES, PageRange
from vmckpt.restoring.cache import Lease

__all__ = ["Expanded", "Piece", "expand"]

_WORD_BYTES = 8


class Piece(NamedTuple):
    """Pages side by side, with their content."""

    pages: PageRange
    content: memoryview | None
    """None: zeros."""


class Expanded(NamedTuple):
    """A memory block, as far as its own storage block tells it."""

    block: MemoryBlock
    pages: PageRange
    pieces: list[Piece]
    duplicates: list[tuple[int, int]]
    """Pages that equal a stored page elsewhere, with their index for `Store.duplicate`."""
    lease: Lease | None = None
    """Of the memory that the pieces lie in; None: it is theirs."""

    @property
    def is_good(self) -> bool:
        """Whether the pieces still hold what they did."""
        return self.lease is None or self.lease.holds


def expand(block: MemoryBlock, pages: PageRange, content: memoryview, lease: Lease | None) -> Expanded:
    """Tell a memory block's pages apart.

    Args:
        block: what the directory says of it.
        pages: that it stands for.
        content: its stored pages, side by side, proved.
        lease: of the memory that they lie in.
    """
    if len(content) == pages.pages * PAGE_BYTES:  # every page is stored: as a rule
        return Expanded(block, pages, [Piece(pages, content)], [], lease)
    pieces: list[Piece] = []
    duplicates: list[tuple[int, int]] = []
    parts: list[
        memoryview | bytes
    ] = []  # of pages side by side that are neither zero nor duplicates: one piece
    start_page = pages.start
    stored = pattern = 0
    for kind, start, end in block.runs():
        count = end - start
        if kind == STORED:
            parts.append(content[stored * PAGE_BYTES : (stored + count) * PAGE_BYTES])
            stored += count
        elif kind == PATTERN:
            parts.append(_repeated(block.patterns[pattern * _WORD_BYTES : (pattern + count) * _WORD_BYTES]))
            pattern += count
        else:
            run = PageRange(pages.start + start, pages.start + end)
            if parts:
                pieces.append(_joined(PageRange(start_page, run.start), parts))
                parts = []
            if kind == DUPLICATE:
                duplicates += [(page, len(duplicates) + at) for at, page in enumerate(range(*run))]
            else:
                pieces.append(Piece(run, None))
            start_page = run.end
    if parts:
        pieces.append(_joined(PageRange(start_page, pages.end), parts))
    return Expanded(block, pages, pieces, duplicates, lease)


def _joined(pages: PageRange, parts: list[memoryview | bytes]) -> Piece:
    return Piece(pages, memoryview(parts[0] if len(parts) == 1 else b"".join(parts)))


def _repeated(words: bytes) -> bytes:
    """A page of each word."""
    count = PAGE_BYTES // _WORD_BYTES
    return b"".join(words[at : at + _WORD_BYTES] * count for at in range(0, len(words), _WORD_BYTES))
