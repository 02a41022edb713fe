"""Small fleets as plans see them: which content is how often in which large page, and what breaking some up frees."""

import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tests.sharing.memories import Memory, hashes_of_memory
from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.sharing.large import LargePages, large_pages_of
from vmckpt.sharing.table import SharingTable, table_of

__all__ = ["Held", "Room", "fewest", "frees", "held_in", "large_pages_with", "room_of", "subsets"]

Fleet = Sequence[tuple[Memory, int]]
Held = list[Counter[tuple[int, int]]]
"""For each large page of a fleet, in order: how often it holds each (trust group, content); content 0 is zero."""


class Room(NamedTuple):
    """A fleet in the forms that a plan is made from."""

    table: SharingTable
    large: LargePages
    held: Held


def room_of(fleet: Fleet, small_pages: int) -> Room:
    """A fleet whose large pages have so many small ones."""
    images = [hashes_of_memory(memory) for memory, _ in fleet]
    table = table_of(images).within([group for _, group in fleet])
    return Room(table, large_pages_of(images, small_pages * PAGE_BYTES), held_in(fleet, small_pages))


def held_in(fleet: Fleet, small_pages: int) -> Held:
    """Counted page by page."""
    found: dict[tuple[int, int], Counter[tuple[int, int]]] = {}
    for image, (memory, group) in enumerate(fleet):
        for page, content in enumerate(memory.content):
            where = (image, memory.layout.gpa_of(page) // (small_pages * PAGE_BYTES))
            found.setdefault(where, Counter())[group, content] += 1
    return [found[where] for where in sorted(found)]


def frees(
    held: Held, broken: Collection[int], *, before: Collection[int] = (), count_zero: bool = True
) -> int:
    """What breaking up these large pages frees, by counting: those broken up before have shared already."""
    copies: Counter[tuple[int, int]] = Counter()
    for index in broken:
        if index not in before:
            copies += held[index]
    there = {key for index in before for key in held[index]}
    return sum(
        (count if count_zero else 0) if key[1] == 0 else count - (key not in there)
        for key, count in copies.items()
    )


def subsets(count: int, most: int | None = None) -> Iterator[tuple[int, ...]]:
    """All subsets, the small ones first."""
    for size in range((count if most is None else most) + 1):
        yield from itertools.combinations(range(count), size)


def fewest(held: Held, target_pages: int, *, count_zero: bool = True) -> int | None:
    """The size of the smallest set that frees so much, by trying all; None: there is none."""
    for chosen in subsets(len(held)):
        if frees(held, chosen, count_zero=count_zero) >= target_pages:
            return len(chosen)
    return None


def large_pages_with(contents: Sequence[Sequence[int]], seed: int = 1) -> Room:
    """One image whose large pages hold these contents, and nothing else that is equal."""
    small_pages = 1 << max(3, max(map(len, contents)).bit_length())
    filler = itertools.count(max(map(max, contents)) + 1 + seed)
    content = [
        number for held in contents for number in [*held, *itertools.islice(filler, small_pages - len(held))]
    ]
    memory = Memory(content, Layout([(0, len(content) * PAGE_BYTES)]))
    return room_of([(memory, 0)], small_pages)


def marks(count: int, chosen: Collection[int]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """A mark for each large page that is chosen."""
    return np.isin(np.arange(count), list(chosen))
