"""One estimate from page hashes to report: the order of the steps, and nothing else.

    PageHashes of all images ─▶ table ─▶ ladder, histogram, parts, KSM's counters ─┐
                                  └▶ large pages ─▶ ranking ─▶ plan                ├─▶ SharingReport
                                                             └▶ maps, matrix ──────┘

Called by `api.estimate_sharing`, which opens the sources and hashes them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vmckpt.errors import UsageError
from vmckpt.pages import PAGE_BYTES
from vmckpt.sharing.activity import activity_of
from vmckpt.sharing.detail import detail_of
from vmckpt.sharing.estimate import histogram_of, image_shares, ladder_of, ranked
from vmckpt.sharing.hashes import PageHashes
from vmckpt.sharing.ksm import ksm_forecast
from vmckpt.sharing.large import large_pages_of, potential_of
from vmckpt.sharing.outcome import Estimate, SharingReport
from vmckpt.sharing.table import table_of

__all__ = ["Question", "survey"]


class Question(NamedTuple):
    """What somebody wants to know."""

    trust: str = "each"
    """`each`, `all`, or a file that names groups."""
    large_page_bytes: int = 2 << 20
    confidence: float = 0.95
    """Of the interval."""
    top: int = 10
    """How many large pages to name."""
    share_cap: int = 256
    """How many pages may share a frame (KSM's max_page_sharing)."""
    target_pages: int | None = None
    """How much a plan is to free; None: no plan."""
    detailed: bool = False
    """Whether the report is to hold what a picture shows."""

    def check(self) -> None:
        """See that it can be answered.

        Raises:
            UsageError: a number is out of range.
        """
        if self.large_page_bytes < 2 * PAGE_BYTES or self.large_page_bytes & (self.large_page_bytes - 1):
            raise UsageError(
                f"large pages of {self.large_page_bytes} bytes: expected a power of two, at least {2 * PAGE_BYTES}"
            )
        if not 0 < self.confidence < 1:
            raise UsageError(
                f"a confidence of {self.confidence:g}: expected more than 0 and less than 1, as 0.95"
            )
        if self.share_cap < 2:
            raise UsageError(f"{self.share_cap} pages that may share a frame: expected 2 or more")
        if self.top < 0 or (self.target_pages or 0) < 0:
            raise UsageError("a negative number of pages: expected 0 or more")


def survey(images: Sequence[PageHashes], groups: Sequence[str], question: Question) -> SharingReport:
    """Answer a question about images, exactly; `groups` names the trust group of each."""
    sources = [image.source for image in images]
    numbers = np.unique(list(groups), return_inverse=True)[1].tolist()
    table = table_of(images)
    trusted = table.within(numbers)
    large = large_pages_of(images, question.large_page_bytes)
    potential = potential_of(trusted, large)
    activity = activity_of(images, large)
    freed = trusted.reclaimable
    return SharingReport(
        pages=int(table.page_counts.sum()),
        large_pages=len(large),
        large_page_bytes=question.large_page_bytes,
        zero_pages=int(table.zero_pages.sum()),
        distinct_pages=table.distinct,
        reclaimable=ladder_of(table, numbers),
        estimate=Estimate(freed, freed, freed, question.confidence, "exact", 1.0),
        trust=question.trust,
        histogram=histogram_of(table),
        images=image_shares(table, trusted, sources, groups),
        ksm=ksm_forecast(table, question.share_cap),
        top=ranked(sources, large, potential, activity, question.top),
        plan=None,
        elapsed_s=0.0,
        detail=detail_of(sources, table, large, potential, activity) if question.detailed else None,
    )
