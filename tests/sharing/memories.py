"""Small memories with many equal pages, and what can be said of them by counting in plain Python.

A memory is a list with a number for each page: equal numbers stand for equal pages, 0 for a zero page.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.sharing.hashes import PageHashes

__all__ = ["Memory", "copies_of", "fleets", "hashes_of_memory", "memories"]


class Memory(NamedTuple):
    """One image."""

    content: Sequence[int]
    """What each page holds; less than 63."""
    layout: Layout


@st.composite
def memories(draw: st.DrawFn, most_pages: int = 60) -> Memory:
    """A memory of one or two regions."""
    content = draw(st.lists(st.one_of(st.just(0), st.integers(1, 20)), min_size=1, max_size=most_pages))
    pages = len(content)
    below = draw(st.integers(0, pages - 1))
    if not below:
        return Memory(content, Layout([(0, pages * PAGE_BYTES)]))
    hole = draw(st.integers(0, 9))
    return Memory(
        content,
        Layout([(0, below * PAGE_BYTES), ((below + hole) * PAGE_BYTES, (pages - below) * PAGE_BYTES)]),
    )


def fleets(most_images: int = 4, most_pages: int = 60) -> st.SearchStrategy[list[tuple[Memory, int]]]:
    """Memories, each with the number of its trust group."""
    return st.lists(st.tuples(memories(most_pages), st.integers(0, 2)), min_size=1, max_size=most_images)


def hashes_of_memory(memory: Memory, source: str = "memory") -> PageHashes:
    """The columns of a memory; the hashes of its contents are spread over all 64 bits."""
    pages = [page for page, content in enumerate(memory.content) if content]
    hashes = [memory.content[page] * 0x9E3779B97F4A7C15 % (1 << 64) for page in pages]
    return PageHashes(source, memory.layout, np.array(pages, np.uint32), np.array(hashes, np.uint64))


def copies_of(fleet: Sequence[tuple[Memory, int]]) -> Counter[tuple[int, int]]:
    """How often each content that is not zero is there, by (group, content)."""
    return Counter((group, content) for memory, group in fleet for content in memory.content if content)
