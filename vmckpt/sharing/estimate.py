"""The exact estimate: what sharing would free, counted.

    table of all images ─┬─▶ ladder: zero, within each image, within each trust group, over everything
                         ├─▶ histogram of copies
                         └─▶ `within` the trust groups ─▶ each image's part of the total

Pure. Put together by `api.estimate_sharing`; `sample` has the same of a part of all contents.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from vmckpt.sharing.large import LargePages, Potential
from vmckpt.sharing.outcome import ImageShare, Ladder, LargeShare
from vmckpt.sharing.table import SharingTable

__all__ = ["exact_parts", "histogram_of", "image_shares", "ladder_of", "ranked"]

_PARTS = 1 << 20  # a part of a page that a double still holds exactly beside 2^32 pages


def ladder_of(table: SharingTable, groups: Sequence[int]) -> Ladder:
    """What sharing over wider and wider circles would free.

    Args:
        table: over all images.
        groups: the trust group of each image, by number.
    """
    return Ladder(
        zero=int(table.zero_pages.sum()),
        intra=table.within(range(len(table.page_counts))).reclaimable,
        trust=table.within(groups).reclaimable,
        all=table.reclaimable,
    )


def histogram_of(table: SharingTable) -> dict[int, int]:
    """Copies -> contents with so many; zero pages are left out."""
    single = table.distinct - len(table.hashes)
    counts = np.bincount(table.copies)
    found = {copies: int(counts[copies]) for copies in np.flatnonzero(counts).tolist()}
    return ({1: single} if single else {}) | found


def image_shares(
    table: SharingTable, trusted: SharingTable, sources: Sequence[str], groups: Sequence[str]
) -> tuple[ImageShare, ...]:
    """What each image has to do with it.

    Args:
        table: over all images.
        trusted: the same within the trust groups.
        sources: the name of each image.
        groups: the name of each one's trust group.
    """
    within = table.within(range(len(sources)))
    own = np.bincount(within.images, minlength=len(sources))
    own -= np.bincount(within.images[within.starts[:-1]], minlength=len(sources))
    return tuple(
        ImageShare(source, group, int(pages), int(zero), part, float(exclusive))
        for source, group, pages, zero, part, exclusive in zip(
            sources, groups, table.page_counts, table.zero_pages, exact_parts(trusted), own, strict=True
        )
    )


def exact_parts(trusted: SharingTable) -> list[float]:
    """Each image's part of what sharing frees, 1 - 1/c for each of c equal pages; the sum is the total, to the bit.

    The parts are fractions whose sum is a whole number. They are rounded to multiples of 2^-20 so that their sum stays
    that number: what rounding down leaves goes to those that lost most (Hamilton's method).
    """
    images = len(trusted.page_counts)
    copies = np.repeat(trusted.copies, trusted.copies)
    kinds, kind_of = np.unique(copies, return_inverse=True)
    rows = np.bincount(trusted.images * len(kinds) + kind_of, minlength=images * len(kinds)).reshape(
        images, -1
    )
    parts = [
        sum(
            (
                Fraction(count * (kind - 1), kind)
                for count, kind in zip(of_image, kinds.tolist(), strict=True)
            ),
            Fraction(),
        )
        for of_image in rows.tolist()
    ]
    scaled = [part * _PARTS for part in parts]
    whole = [int(part) for part in scaled]
    left = int(sum(scaled, Fraction())) - sum(whole)
    by_loss = sorted(range(images), key=lambda image: whole[image] - scaled[image])
    for image in by_loss[:left]:
        whole[image] += 1
    return [part / _PARTS for part in whole]


def ranked(
    sources: Sequence[str],
    large: LargePages,
    potential: Potential,
    activity: npt.NDArray[np.float64],
    most: int,
) -> tuple[LargeShare, ...]:
    """The large pages that sharing would free most of, the best first; among equals the least active.

    Args:
        sources: the name of each image.
        large: the large pages of all images.
        potential: of each of them.
        activity: of each of them, 0 to 1; NaN: not known.
        most: how many to name.
    """
    order = np.lexsort((large.numbers, large.images, activity, -potential.gain))[:most]
    return tuple(
        LargeShare(
            sources[large.images[index]],
            int(large.numbers[index]),
            int(potential.shareable[index]),
            float(potential.gain[index]),
            None if np.isnan(activity[index]) else float(activity[index]),
        )
        for index in order[potential.gain[order] > 0]
    )
