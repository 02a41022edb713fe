"""Which pages are equal: the table that estimate, ranking and plan are computed from.

    page hashes of images ─▶ sort by hash, a part of all hashes at a time ─▶ SharingTable
                                                                            └▶ `within` trust groups ─▶ SharingTable

A page that has no equal anywhere leaves no row: a table costs 16 bytes for each page that has one, whatever else is
there. Pages are told by their *place*, which counts the pages of all images one after the other:

    image    0                  1                     2
    place    0 ........ 131071  131072 ....... 393215 393216 ...
                                ^ first_places[1]

Equal hashes stand for equal pages here. That is as good as true for an estimate; who shares pages compares their bytes
(`machine`). Pure, on numpy arrays.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vmckpt.sharing.hashes import Hashes, PageHashes

__all__ = ["Equals", "Numbers", "SharingTable", "equals_of", "table_of", "table_of_parts"]

Numbers = npt.NDArray[np.int64]

_PART_PAGES = 1 << 22  # sorted at a time: 24 bytes each, beside the 12 that every page takes


@dataclass(frozen=True, slots=True)
class SharingTable:
    """Pages that have an equal one, grouped by content. Zero pages are never among them."""

    page_counts: Numbers
    """Small pages of each image, zero ones included, [images]."""
    zero_pages: Numbers
    """Of these, zero ones, [images]."""
    distinct: int
    """Different contents of all pages that are not zero; in a table `within` groups, summed over the groups."""
    places: Numbers
    """The pages, value after value, ascending within each, [rows]."""
    starts: Numbers
    """Value v has the rows `starts[v]` to `starts[v + 1]`, at least two, [values + 1]."""
    hashes: Hashes
    """The hash of each value, [values]; ascending, or with several groups in no order."""

    @property
    def first_places(self) -> Numbers:
        """Where each image's places begin, and where the last one's end, [images + 1]."""
        return _sums(self.page_counts)

    @property
    def copies(self) -> Numbers:
        """How many pages each value has, [values]."""
        return np.diff(self.starts)

    @property
    def values(self) -> Numbers:
        """The value of each row, [rows]."""
        return np.repeat(np.arange(len(self.hashes)), self.copies)

    @property
    def images(self) -> Numbers:
        """The image of each row, [rows]."""
        return np.searchsorted(self.first_places, self.places, side="right") - 1

    @property
    def pages(self) -> Numbers:
        """The page number of each row within its image, [rows]."""
        return self.places - self.first_places[self.images]

    @property
    def reclaimable(self) -> int:
        """Pages that sharing would free: of each value all copies but one."""
        return len(self.places) - len(self.hashes)

    def within(self, groups: Sequence[int]) -> "SharingTable":
        """The table where only images of one group share.

        Args:
            groups: the group of each image, by any number.
        """
        group_of = np.unique(np.asarray(groups, np.int64), return_inverse=True)[1]
        if not group_of.any():
            return self
        keys = self.values * len(group_of) + group_of[self.images]
        order = np.argsort(keys, kind="stable")
        starts = _run_starts(keys[order])
        copies = np.diff(starts, append=len(keys))
        shared = copies > 1
        return SharingTable(
            self.page_counts,
            self.zero_pages,
            self.distinct - len(self.hashes) + len(starts),
            self.places[order][np.repeat(shared, copies)],
            _sums(copies[shared]),
            np.repeat(self.hashes, self.copies)[order[starts[shared]]],
        )


def table_of(images: Sequence[PageHashes], *, part_pages: int = _PART_PAGES) -> SharingTable:
    """Find equal pages among all images.

    Args:
        images: their page hashes.
        part_pages: about how many hashes to sort at a time; more takes more memory, and hardly less time.
    """
    page_counts = np.array([image.page_count for image in images], np.int64)
    return table_of_parts(
        page_counts,
        np.array([image.zero_pages for image in images], np.int64),
        [equals_of(hashes, places) for hashes, places in _parts(images, _sums(page_counts), part_pages)],
    )


def table_of_parts(page_counts: Numbers, zero_pages: Numbers, equals: "Sequence[Equals]") -> SharingTable:
    """Put together what `equals_of` found in each part of all hashes, parts ascending.

    Args:
        page_counts: small pages of each image, zero ones included, [images].
        zero_pages: of these, zero ones, [images].
        equals: at least one part; every hash is in one of them.
    """
    return SharingTable(
        page_counts,
        zero_pages,
        sum(part.distinct for part in equals),
        np.concatenate([part.places for part in equals]),
        _sums(np.concatenate([part.copies for part in equals])),
        np.concatenate([part.hashes for part in equals]),
    )


class Equals(NamedTuple):
    """The pages that have an equal one, in one part of all hashes."""

    distinct: int
    """Different contents of all pages of the part."""
    places: Numbers
    """The pages, value after value, ascending within each, [rows]."""
    copies: Numbers
    """Pages of each value, at least two, [values]."""
    hashes: Hashes
    """The hash of each value, ascending, [values]."""


def _parts(
    images: Sequence[PageHashes], first_places: Numbers, part_pages: int
) -> Iterator[tuple[Hashes, Numbers]]:
    """Hashes and places, by the first bits of the hash: equal hashes are in one part, and parts ascend."""
    total = sum(len(image.hashes) for image in images)
    bits = max(0, (total - 1) // part_pages).bit_length()
    for part in range(1 << bits):
        chosen = [
            slice(None) if not bits else image.hashes >> np.uint64(64 - bits) == part for image in images
        ]
        yield (
            np.concatenate([image.hashes[rows] for image, rows in zip(images, chosen, strict=True)]),
            np.concatenate(
                [
                    image.pages[rows].astype(np.int64) + first
                    for image, rows, first in zip(images, chosen, first_places[:-1], strict=True)
                ]
            ),
        )


def equals_of(hashes: Hashes, places: Numbers) -> Equals:
    """Group equal hashes, and leave out those that have no equal.

    Args:
        hashes: of pages, in any order, [n].
        places: of the same pages, [n].
    """
    order = np.argsort(hashes)
    ordered = hashes[order]
    starts = _run_starts(ordered)
    copies = np.diff(starts, append=len(ordered))
    shared = copies > 1
    rows = places[order[np.repeat(shared, copies)]]
    copies_of_shared = copies[shared]
    # The sort was not a stable one, which takes four times as long; few rows are left to put in order.
    values = np.repeat(np.arange(len(copies_of_shared)), copies_of_shared)
    return Equals(len(starts), rows[np.lexsort((rows, values))], copies_of_shared, ordered[starts[shared]])


def _run_starts(ordered: Numbers | Hashes) -> Numbers:
    """Where each run of equal numbers begins."""
    if not len(ordered):
        return np.empty(0, np.int64)
    return np.concatenate([np.zeros(1, np.int64), np.flatnonzero(ordered[1:] != ordered[:-1]) + 1])


def _sums(counts: Numbers) -> Numbers:
    """0, and the sum of the first 1, 2, ... counts."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
