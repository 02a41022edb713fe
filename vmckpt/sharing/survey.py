"""What is known of images, put together into the report that answers a question. Pure.

    all pages: table ─▶ ladder, histogram, parts, KSM's counters ─┐
                 └▶ large pages ─▶ ranking ─▶ plan                ├─▶ SharingReport
                                        └▶ maps, matrix ──────────┤
    a sample: tallies ─▶ estimates of the same ───────────────────┘

Called by `inquiry`, which finds out.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vmckpt.errors import UsageError
from vmckpt.pages import PAGE_BYTES
from vmckpt.sharing.activity import Image, activity_of
from vmckpt.sharing.detail import detail_of, maps_of
from vmckpt.sharing.estimate import histogram_of, image_shares, ladder_of, ranked
from vmckpt.sharing.heavy import Heavy
from vmckpt.sharing.ksm import ksm_forecast
from vmckpt.sharing.large import LargePages, potential_of
from vmckpt.sharing.outcome import Estimate, ImageShare, SharingDetail, SharingReport
from vmckpt.sharing.plan import outcome_of, plan_of
from vmckpt.sharing.sample import SampledPages, sampled_potential
from vmckpt.sharing.sampled import estimate_of, sampled_matrix
from vmckpt.sharing.table import SharingTable
from vmckpt.sharing.tally import Tally

__all__ = ["Question", "Sampled", "exact_report", "group_numbers", "sampled_report"]


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


class Sampled(NamedTuple):
    """What a sample kept of all images."""

    tallies: Sequence[Tally]
    """Of each image."""
    fraction: float
    """Of all contents."""
    heavy: Heavy | None = None
    """The contents with many copies; None: not looked for."""
    samples: Sequence[SampledPages] | None = None
    """Which pages of each image were kept; None: not known of all of them, as a sketch does not say."""


def group_numbers(groups: Sequence[str]) -> list[int]:
    """A number from 0 for each name."""
    found: list[int] = np.unique(list(groups), return_inverse=True)[1].tolist()
    return found


def exact_report(
    images: Sequence[Image], table: SharingTable, large: LargePages, groups: Sequence[str], question: Question
) -> SharingReport:
    """Answer a question about images of which every page is known.

    Args:
        images: what is known of each.
        table: their equal pages.
        large: their large pages.
        groups: the trust group of each.
        question: what is asked.
    """
    sources = [image.source for image in images]
    numbers = group_numbers(groups)
    trusted = table.within(numbers)
    potential = potential_of(trusted, large)
    activity = activity_of(images, large)
    plan = None
    if question.target_pages is not None:
        plan = outcome_of(plan_of(trusted, large, question.target_pages, activity), large, sources)
    breaks = () if plan is None else plan.breaks
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
        plan=plan,
        elapsed_s=0.0,
        detail=detail_of(sources, table, large, potential, activity, breaks) if question.detailed else None,
    )


def sampled_report(
    sampled: Sampled, large_pages: int, groups: Sequence[str], question: Question
) -> SharingReport:
    """Answer a question about images of which a sample is known.

    Args:
        sampled: what was kept of each.
        large_pages: of all images.
        groups: the trust group of each.
        question: what is asked; it has no target.
    """
    tallies, fraction = sampled.tallies, sampled.fraction
    sources = [tally.source for tally in tallies]
    numbers = group_numbers(groups)
    found = estimate_of(
        tallies,
        numbers,
        fraction=fraction,
        confidence=question.confidence,
        heavy=sampled.heavy,
        share_cap=question.share_cap,
    )
    report = SharingReport(
        pages=found.pages,
        large_pages=large_pages,
        large_page_bytes=question.large_page_bytes,
        zero_pages=found.zero_pages,
        distinct_pages=found.distinct.pages,
        reclaimable=found.reclaimable,
        estimate=found.estimate,
        trust=question.trust,
        histogram=found.histogram,
        images=tuple(
            ImageShare(tally.source, group, tally.page_count, tally.zero_pages, attributed, exclusive)
            for tally, group, attributed, exclusive in zip(
                tallies, groups, found.attributed_pages, found.exclusive_pages, strict=True
            )
        ),
        ksm=found.ksm,
        top=(),
        plan=None,
        elapsed_s=0.0,
    )
    if sampled.samples is None:
        return report
    large, potential = sampled_potential(sampled.samples, numbers, fraction, question.large_page_bytes)
    activity = activity_of([sample.scanned for sample in sampled.samples], large)
    detail = None
    if question.detailed:
        maps = maps_of(sources, large, potential, activity)
        detail = SharingDetail(maps, sampled_matrix(tallies, fraction))
    return report._replace(top=ranked(sources, large, potential, activity, question.top), detail=detail)
