"""In which order memory blocks are written, and which travel together. Pure.

Layouts are Halite's (ATC'13, 4): *physical* follows guest-physical order, *random* ignores it, *access* puts blocks with
active pages first, in the order in which they were touched.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from vmckpt.errors import UsageError
from vmckpt.pages import PageRange

__all__ = ["LAYOUTS", "batches", "block_numbers", "ordered", "page_ranges"]

LAYOUTS = ("physical", "random", "access")


def block_numbers(ranges: Iterable[PageRange], block_pages: int) -> Iterator[int]:
    """The memory blocks that ascending, disjoint page ranges touch, each once, ascending."""
    following = 0
    for start, end in ranges:
        first = max(start // block_pages, following)
        following = max(-(-end // block_pages), following)
        yield from range(first, following)


def ordered(
    numbers: Iterable[int], layout: str, active_pages: Sequence[int], block_pages: int
) -> Iterable[int]:
    """Memory block numbers (ascending) in the order of `layout`.

    Raises:
        UsageError: there is no such layout, or there are no active pages to order by.
    """
    if layout == "physical":
        return numbers
    if layout == "random":
        shuffled = list(numbers)
        random.Random(0).shuffle(shuffled)
        return shuffled
    if layout != "access":
        raise UsageError(f"there is no layout {layout!r}: expected one of {', '.join(LAYOUTS)}")
    if not active_pages:
        raise UsageError(
            "the checkpoint records no active pages, so there is no access order to lay it out in"
        )
    known = dict.fromkeys(numbers)
    first = [block for block in dict.fromkeys(page // block_pages for page in active_pages) if block in known]
    return dict.fromkeys([*first, *known])


def batches(numbers: Iterable[int], size: int) -> Iterator[tuple[int, ...]]:
    """Groups of at most `size` memory blocks, in order."""
    rest = iter(numbers)
    while batch := tuple(islice(rest, size)):
        yield batch


def page_ranges(batch: Sequence[int], block_pages: int, page_count: int) -> Iterator[tuple[int, PageRange]]:
    """The pages of a batch in as few ranges as its order allows, each with the index of its first block.

    Memory's last block may be shorter than the others, and in a random order stand anywhere.
    """
    first = 0
    for index in range(1, len(batch) + 1):
        if index == len(batch) or batch[index] != batch[index - 1] + 1:
            end = (batch[index - 1] + 1) * block_pages
            yield first, PageRange(batch[first] * block_pages, min(end, page_count))
            first = index
