"""The shared memory through which a batch of memory blocks passes between coordinator and worker.

    worker scans     ──▶  hashes, kinds                  (what each page is)
    coordinator      ──▶  kinds, firsts                  (which pages are duplicates, and of what)
    worker packs     ──▶  kinds, entries, bodies, payload (what the file will hold)

A slot belongs to one side at a time; the messages between them hand it over, so nothing is locked.
"""

import mmap
import struct
from typing import NamedTuple

from vmckpt.pages import PAGE_BYTES

__all__ = ["ENTRY", "Slot", "open_slots"]

ENTRY = struct.Struct("<III")
"""Of a memory block: compressed bytes, codec, bytes of its body (hashes, then patterns)."""


class Slot(NamedTuple):
    """Views of one slot's shared memory."""

    payload: memoryview
    """Compressed pages, block behind block."""
    hashes: memoryview
    """uint64, of every page."""
    firsts: memoryview
    """uint64: of a duplicate, the page that it equals."""
    bodies: memoryview
    """Of each block its hashes (stored, then duplicates) and pattern words, block behind block."""
    kinds: memoryview
    """uint8, of every page."""
    entries: memoryview
    """One `ENTRY` for each block."""


def open_slots(count: int, blocks: int, block_pages: int) -> list[Slot]:
    """`count` slots of `blocks` memory blocks each, shared with every process forked later."""
    pages = blocks * block_pages
    sizes = (pages * PAGE_BYTES, pages * 8, pages * 8, pages * 8, pages, blocks * ENTRY.size)
    shared = memoryview(mmap.mmap(-1, count * -(-sum(sizes) // PAGE_BYTES) * PAGE_BYTES))
    slots = []
    for index in range(count):
        at = index * -(-sum(sizes) // PAGE_BYTES) * PAGE_BYTES
        views = []
        for size in sizes:
            views.append(shared[at : at + size])
            at += size
        payload, hashes, firsts, bodies, kinds, entries = views
        slots.append(Slot(payload, hashes.cast("Q"), firsts.cast("Q"), bodies, kinds, entries))
    return slots
