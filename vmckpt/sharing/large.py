"""Large pages: which small pages lie in which, and what sharing inside each would come to.

    layout ─▶ large pages of one image          a large page is gpa // large_page_bytes: aligned as the guest sees it
    images ─▶ `LargePages`: those of all images, numbered one after the other, beside the places of their small pages

Pure, on numpy arrays. `estimate` ranks them, `plan` chooses among them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vmckpt.layout import PAGE_BYTES, Layout
from vmckpt.sharing.hashes import PageHashes
from vmckpt.sharing.table import Numbers, SharingTable

__all__ = ["LargePages", "Potential", "large_pages_of", "potential_of"]


@dataclass(frozen=True, slots=True)
class LargePages:
    """The large pages of all images. One that memory fills in part only counts as one, too."""

    images: Numbers
    """The image of each, [large pages], ascending."""
    numbers: Numbers
    """Its number within the image: gpa // large_page_bytes, [large pages]."""
    small_pages: Numbers
    """Small pages of it that are memory, [large pages]."""
    zero_pages: Numbers
    """Of these, zero ones, [large pages]."""
    run_places: Numbers
    """Where each run of places begins that lies in one large page, ascending, [runs]."""
    run_large: Numbers
    """The large page of each such run, [runs]."""

    def __len__(self) -> int:
        return len(self.numbers)

    def of(self, places: Numbers) -> Numbers:
        """The large page of each place."""
        return self.run_large[np.searchsorted(self.run_places, places, side="right") - 1]


@dataclass(frozen=True, slots=True)
class Potential:
    """What sharing would free in each large page, were all broken up."""

    shareable: Numbers
    """Small pages that are zero or have an equal page, [large pages]."""
    gain: npt.NDArray[np.float64]
    """Pages freed, [large pages]: each zero page is one, and each of c equal pages 1 - 1/c, so that the sum over all
    large pages is what sharing frees."""


def large_pages_of(images: Sequence[PageHashes], large_page_bytes: int) -> LargePages:
    """Lay out the large pages of all images.

    Args:
        images: their page hashes.
        large_page_bytes: a power of two, more than a page.
    """
    per = large_page_bytes // PAGE_BYTES
    columns: list[tuple[Numbers, Numbers, Numbers, Numbers, Numbers]] = []
    known = first_place = 0
    for image in images:
        numbers, run_pages, run_large, small = _of_layout(image.layout, per)
        data = np.bincount(
            run_large[np.searchsorted(run_pages, image.pages, side="right") - 1], minlength=len(numbers)
        )
        columns.append((numbers, run_pages + first_place, run_large + known, small, small - data))
        known += len(numbers)
        first_place += image.page_count
    numbers, run_places, run_large, small, zero = (
        np.concatenate(column) for column in zip(*columns, strict=True)
    )
    owners = np.repeat(np.arange(len(images)), [len(column[0]) for column in columns])
    return LargePages(owners, numbers, small, zero, run_places, run_large)


def _of_layout(layout: Layout, per: int) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Numbers of an image's large pages; first page and large page of each run of pages; small pages of each."""
    firsts: list[Numbers] = []
    numbers: list[Numbers] = []
    for region in layout.regions:
        start = region.gpa // PAGE_BYTES
        within = np.arange(start // per, -(-(start + region.pages) // per), dtype=np.int64)
        numbers.append(within)
        firsts.append(np.maximum(within * per - start, 0) + region.first_page)
    run_pages = np.concatenate(firsts)
    unique, run_large = np.unique(np.concatenate(numbers), return_inverse=True)
    lengths = np.diff(run_pages, append=layout.page_count)
    small = np.bincount(run_large, weights=lengths).astype(np.int64)
    return unique, run_pages, run_large.astype(np.int64), small


def potential_of(table: SharingTable, large: LargePages) -> Potential:
    """Count what is shareable, and what that would free, in each large page.

    Args:
        table: of the pages that may share (`SharingTable.within` the trust groups).
        large: the large pages of the same images.
    """
    of = large.of(table.places)
    gains = np.repeat(1 - 1 / table.copies, table.copies)
    freed = np.bincount(of, weights=gains, minlength=len(large)).astype(np.float64) + large.zero_pages
    return Potential(np.bincount(of, minlength=len(large)) + large.zero_pages, freed)
