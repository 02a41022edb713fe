"""How many copies of each content an image has: what estimates from samples and sketches are made of.

    sample of an image ┐
    sketch of an image ┴▶ `Tally`, one for each image ─▶ `Copies`: all images' rows, content after content

A tally is additive: the tally of a host is the sum of the tallies of its images. Pure, on numpy arrays.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vmckpt.sharing.hashes import Hashes
from vmckpt.sharing.table import Numbers

__all__ = ["Circles", "Copies", "Tally", "copies_of", "parts_of", "sum_of", "tally_of", "thinned"]


@dataclass(frozen=True, slots=True)
class Tally:
    """The contents of one image (or of several, summed) that a selection keeps."""

    source: str
    """What to call it."""
    page_count: int
    """Small pages, zero ones included; all of them, whatever the selection keeps."""
    zero_pages: int
    """Of these, zero ones; all of them."""
    values: Hashes
    """What stands for each content that is kept, ascending, all different, [n]."""
    counts: Numbers
    """Pages of each, [n]."""

    @property
    def data_pages(self) -> int:
        """Small pages that are not zero."""
        return self.page_count - self.zero_pages


def tally_of(source: str, page_count: int, zero_pages: int, values: Hashes) -> Tally:
    """Count what stands for each page that was kept."""
    found, counts = np.unique(values, return_counts=True)
    return Tally(source, page_count, zero_pages, found, counts.astype(np.int64))


def sum_of(tallies: Sequence[Tally], source: str) -> Tally:
    """The tally of all images together, as if they were one."""
    values, at = np.unique(np.concatenate([tally.values for tally in tallies]), return_inverse=True)
    counts = np.zeros(len(values), np.int64)
    np.add.at(counts, at, np.concatenate([tally.counts for tally in tallies]))
    return Tally(
        source,
        sum(tally.page_count for tally in tallies),
        sum(tally.zero_pages for tally in tallies),
        values,
        counts,
    )


def thinned(tally: Tally, threshold: int) -> Tally:
    """What is left of it when only values below `threshold` are kept."""
    kept = len(tally.values)
    if threshold < 1 << 64:
        kept = int(np.searchsorted(tally.values, np.uint64(threshold)))
    return Tally(tally.source, tally.page_count, tally.zero_pages, tally.values[:kept], tally.counts[:kept])


def parts_of(tallies: Sequence[Tally], part_rows: int) -> Iterator[list[Tally]]:
    """The tallies of one range of values after the other: what is counted of each part adds up, and takes less memory.

    Args:
        tallies: one for each image.
        part_rows: about how many rows a part has; values are spread evenly.
    """
    parts = max(1, -(-sum(len(tally.values) for tally in tallies) // part_rows))
    most = max((int(tally.values[-1]) for tally in tallies if len(tally.values)), default=0)
    cuts = np.array([most * part // parts for part in range(1, parts)], np.uint64)
    ends = [[0, *np.searchsorted(tally.values, cuts).tolist(), len(tally.values)] for tally in tallies]
    for part in range(parts):
        yield [
            Tally(
                tally.source,
                tally.page_count,
                tally.zero_pages,
                tally.values[of[part] : of[part + 1]],
                tally.counts[of[part] : of[part + 1]],
            )
            for tally, of in zip(tallies, ends, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Copies:
    """Which image has how many pages of each content; one row for each image that has any, contents ascending."""

    starts: Numbers
    """Content v has the rows `starts[v]` to `starts[v + 1]`, [contents + 1]."""
    values: Hashes
    """What stands for each content, [contents]."""
    images: Numbers
    """The image of each row, ascending within a content, [rows]."""
    counts: Numbers
    """Its pages, [rows]."""

    def __len__(self) -> int:
        return len(self.values)

    @property
    def contents(self) -> Numbers:
        """The content of each row, [rows]."""
        return np.repeat(np.arange(len(self.values)), np.diff(self.starts))

    @property
    def totals(self) -> Numbers:
        """Pages of each content over all images, [contents]."""
        return np.add.reduceat(self.counts, self.starts[:-1]) if len(self) else np.empty(0, np.int64)

    def within(self, groups: Numbers) -> "Circles":
        """Who shares with whom where only images of one group share.

        Args:
            groups: the group of each image, by numbers from 0, [images].
        """
        width = int(groups.max(initial=0)) + 1
        keys, of_row = np.unique(self.contents * width + groups[self.images], return_inverse=True)
        pages = np.bincount(of_row, weights=self.counts).astype(np.int64)
        return Circles(of_row.astype(np.int64), pages, keys // width, keys % width)


class Circles(NamedTuple):
    """The circles that share: all pages of one content in one group. Contents ascend."""

    of_row: Numbers
    """The circle of each row of `Copies`, [rows]."""
    pages: Numbers
    """Pages of each circle, [circles]."""
    contents: Numbers
    """The content of each, [circles]."""
    groups: Numbers
    """The group of each, [circles]."""


def copies_of(tallies: Sequence[Tally]) -> Copies:
    """Put the rows of all images side by side."""
    values = np.concatenate([tally.values for tally in tallies])
    images = np.repeat(np.arange(len(tallies)), [len(tally.values) for tally in tallies])
    counts = np.concatenate([tally.counts for tally in tallies])
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    firsts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)])
    starts = np.append(firsts, len(ordered)).astype(np.int64)
    return Copies(starts, ordered[firsts], images[order], counts[order])
