"""What an estimate of sharing answers: values with their units, and nothing to do in them.

Made by `estimate`, `rank` and `plan`, put together by `api.estimate_sharing`, read by the command line and by `report`.
Plain Python numbers throughout: whoever reads them needs no numpy.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = [
    "Break",
    "CoLocated",
    "Curve",
    "Estimate",
    "HostShare",
    "ImageMap",
    "ImageShare",
    "KsmForecast",
    "Ladder",
    "LargeShare",
    "PlanOutcome",
    "SharingDetail",
    "SharingReport",
]


class Ladder(NamedTuple):
    """Pages that sharing would free, each step over a wider circle. The last three leave zero pages out."""

    zero: int
    """All zero pages: one shared page serves them."""
    intra: int
    """Of each content all copies but one, within each image."""
    trust: int
    """The same within each trust group."""
    all: int
    """The same over everything."""


class Estimate(NamedTuple):
    """How many pages that are not zero sharing would free under the chosen trust, and how sure that is."""

    pages: float
    low: float
    high: float
    confidence: float
    """Of the interval from `low` to `high`: 0.95 for 95 %; an exact count is sure at any."""
    method: str
    """`exact`, or the estimator."""
    fraction: float
    """Of the contents that were looked at; 1 for an exact count."""


class ImageShare(NamedTuple):
    """What one image has to do with it."""

    source: str
    trust_group: str
    pages: int
    zero_pages: int
    attributed_pages: float
    """Its part of what sharing frees under the chosen trust: 1 - 1/c for each page of c equal ones. The parts of all
    images add up to the total exactly."""
    exclusive_pages: float
    """What sharing within this image alone would free."""


class KsmForecast(NamedTuple):
    """The counters that Linux KSM would come to, were all images merged on one host; it knows no trust groups."""

    pages_shared: int
    """Frames that are shared; more than one for a content with more copies than may share a frame."""
    pages_sharing: int
    """Further pages that these frames serve."""
    pages_unshared: int
    """Pages that no other equals."""
    zero_pages: int
    """With `use_zero_pages` on."""
    general_profit_bytes: int
    """What is saved, less what KSM needs to keep track; may be negative."""


class LargeShare(NamedTuple):
    """A large page that is worth breaking up."""

    source: str
    large_page: int
    """gpa // large page size."""
    shareable_pages: int
    """Its small pages that are zero or have an equal; from a sample, an estimate."""
    gain_pages: float
    """What sharing would free of it: 1 for each zero page, 1 - 1/c for each of c equal ones."""
    activity: float | None
    """Part of its small pages that was touched while the memory was saved, 0 to 1; None: not known."""


class Break(NamedTuple):
    """A large page to break up."""

    source: str
    large_page: int


class Curve(NamedTuple):
    """What breaking up more and more large pages frees, in one order."""

    order: str
    points: Sequence[tuple[int, int]]
    """(large pages broken, pages freed), ascending; thinned to some hundreds; (0, 0) may be left out."""


class PlanOutcome(NamedTuple):
    """The large pages to break up to free so much."""

    target_pages: int
    reclaimed_pages: int
    """What breaking exactly these frees."""
    breaks: tuple[Break, ...]
    order: str
    """Which of the orders that were tried was best."""
    curves: tuple[Curve, ...] = ()
    """All orders that were tried."""
    least: int = 0
    """No plan for this target breaks up fewer large pages than so many: that is proved. Where the target cannot be met, all
    that are worth it."""


class ImageMap(NamedTuple):
    """The large pages of one image, for a picture."""

    source: str
    large_pages: Sequence[int]
    """Their numbers (gpa // large page size), ascending."""
    small_pages: Sequence[int]
    """Small pages of each that are memory."""
    gain_pages: Sequence[float]
    """Of each, as in `LargeShare`."""
    zero_pages: Sequence[int]
    """Of each."""
    activity: Sequence[float] | None
    """Of each, as in `LargeShare`; None: not known."""
    broken: Sequence[bool]
    """Of each: whether the plan breaks it up."""


class SharingDetail(NamedTuple):
    """What a picture of an estimate shows beyond its numbers."""

    maps: tuple[ImageMap, ...]
    """Of each image, in the order of `SharingReport.images`."""
    matrix: Sequence[Sequence[float]]
    """[image][image], in the same order: pages that the two would share if they trusted each other: for each content that
    both have, the smaller number of copies; on the diagonal what sharing within the image frees."""


class HostShare(NamedTuple):
    """Images that are to run on one host."""

    sources: tuple[str, ...]
    reclaimable_pages: float
    """What sharing among them would free, zero pages left out."""


class CoLocated(NamedTuple):
    """Images put into hosts by what they would share."""

    hosts: tuple[HostShare, ...]
    reclaimable_pages: float
    """Over all hosts."""
    alone_pages: float
    """What each image by itself would free."""
    random_pages: float
    """What images put together at random would free."""


class SharingReport(NamedTuple):
    """What sharing would come to."""

    pages: int
    large_pages: int
    large_page_bytes: int
    zero_pages: int
    distinct_pages: float
    """Different contents that are not zero; from a sample, an estimate."""
    reclaimable: Ladder
    estimate: Estimate
    trust: str
    """`each`, `all`, or the file that names the groups."""
    histogram: Mapping[int, float]
    """Copies -> contents with so many, over everything."""
    images: tuple[ImageShare, ...]
    ksm: KsmForecast
    top: tuple[LargeShare, ...]
    plan: PlanOutcome | None
    elapsed_s: float
    detail: SharingDetail | None = None
    """Only where it was asked for."""
    co_location: CoLocated | None = None
    """Only where it was asked for."""
