"""A sample of images: which of their pages are kept, and what is still known exactly.

    source ─▶ scan ─▶ kept: pages whose content the selection chooses ─▶ `SampledPages` ─▶ `tally` ─▶ `sampled`
                 └──▶ heavy (if wanted): contents with many copies, all pages looked at

Every page is hashed once; what shrinks by the fraction is memory, and what a fleet sends over the network. As a content
is kept with all its copies or not at all, the copies of what is kept are exact.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vmckpt.pages import Source
from vmckpt.reports import Progress
from vmckpt.sharing.hashes import Hashes, PageHashes, PageNumbers, number_type
from vmckpt.sharing.large import LargePages, Potential, potential_of
from vmckpt.sharing.scan import Scanned, counted_large_pages, scan
from vmckpt.sharing.selection import Selection, keep_below, threshold_of
from vmckpt.sharing.table import table_of
from vmckpt.sharing.tally import Tally, tally_of

__all__ = ["SampledPages", "sample_of", "sampled_potential"]


@dataclass(frozen=True, slots=True)
class SampledPages:
    """The pages of one image that a selection keeps."""

    scanned: Scanned
    """What is known of all its pages."""
    pages: PageNumbers
    """Ascending numbers of those that are kept, [n]."""
    values: Hashes
    """What the selection puts for the hash of each, [n]."""

    @property
    def tally(self) -> Tally:
        """How many copies of each content are in it."""
        known = self.scanned
        return tally_of(known.source, known.page_count, known.zero_pages, self.values)


def sample_of(
    source: Source,
    selection: Selection,
    *,
    jobs: int,
    large_page_bytes: int = 0,
    look: Callable[[Hashes], None] | None = None,
    progress: Progress | None = None,
) -> SampledPages:
    """Hash every page of `source` once, and keep those that the selection chooses.

    Args:
        source: what to read.
        selection: what to keep.
        jobs: processes that hash.
        large_page_bytes: as for `scan`.
        look: is shown what the selection puts for every page that is not zero, kept or not (`Heavy.add`).
        progress: told how far it has come.

    Raises:
        ChangedError, IoError, CorruptionError, WorkerError: as `scan` says.
    """
    pages: list[PageNumbers] = []
    values: list[Hashes] = []
    threshold = threshold_of(selection.fraction)

    def keep(numbers: PageNumbers, hashes: Hashes) -> None:
        found = selection.values(hashes)
        if look is not None:
            look(found)
        kept = keep_below(found, threshold)
        pages.append(numbers[kept])
        values.append(found[kept])

    scanned = scan(source, keep, jobs=jobs, large_page_bytes=large_page_bytes, progress=progress)
    none = np.empty(0, number_type(source.layout))
    return SampledPages(
        scanned, np.concatenate([*pages, none]), np.concatenate([*values, np.empty(0, np.uint64)])
    )


def sampled_potential(
    samples: Sequence[SampledPages], groups: Sequence[int], fraction: float, large_page_bytes: int
) -> tuple[LargePages, Potential]:
    """The large pages of all images, and what sharing inside each is estimated to free.

    Zero pages of a large page are exact; of the others each that is kept stands for 1/fraction (Horvitz and Thompson). So
    a gain is unbiased and gains add up, but few pages of each are kept: one gain may be off by much, even be more than the
    large page has, and the order is rough below a fraction of 1/16.

    Args:
        samples: one for each image, made with this `large_page_bytes`.
        groups: the trust group of each image.
        fraction: of the selection.
        large_page_bytes: a power of two.
    """
    large = counted_large_pages([sample.scanned for sample in samples], large_page_bytes)
    kept = [
        PageHashes(sample.scanned.source, sample.scanned.layout, sample.pages, sample.values)
        for sample in samples
    ]
    found = potential_of(table_of(kept).within(groups), large)
    zero = large.zero_pages
    shareable = zero + np.rint((found.shareable - zero) / fraction).astype(np.int64)
    gain = zero + (found.gain - zero) / fraction
    return large, Potential(np.minimum(shareable, large.small_pages), gain)
